-- Writes a batch, if all that it was decided by is still so.
-- ARGV, each list behind its length:
--   the present in place of the server's, or nothing
--   looked at:  record, and what its head began with, or nothing when there was none
--   hanging:    run key, how many records hang on it
--   held:       run whose lease must not have passed
--   limits:     agent, how many of its runs may be leased, how many more will be
--   deleted:    record
--   the owner of new leases, their token, when they are taken, when they end
--   rows:       record, its kind, its place among the batch's new ones or nothing, head, body, and of its lease: nothing, `end` when it
--               ends, or its new fence
--   events:     run, how many it has with these unless the run is among the rows, how many, the events
--   counts:     scope, status, by how many
--   and how many new records the batch has made
-- Answers: 1 when it was written, 0 when it must be decided anew.

-- By name, the records that were looked at.
local old = {}

local function as_it_was(id, began)
  local found = redis.call('HMGET', P .. 'r:' .. id, 'order', 'head', 'until', 'token')
  local head = found[2]
  if not head then return began == '' end
  old[id] = {order = found[1], head = head, till = found[3] or '', token = found[4]}
  return began ~= '' and string.find(head, began, 1, true) == 1
end

local function is_current(now)
  for _ = 1, number() do
    if not as_it_was(arg(), arg()) then return false end
  end
  for _ = 1, number() do
    if redis.call('ZCARD', P .. 'h:' .. arg()) ~= number() then return false end
  end
  for _ = 1, number() do
    local run = old[arg()]
    if not (run and run.till ~= '' and tonumber(run.till) > now) then return false end
  end
  for _ = 1, number() do
    local agent, most, more = arg(), number(), number()
    if leased(agent) + more > most then return false end
  end
  return true
end

-- What sets lose and get, by command and place: a command for many costs less than many.
local noted = {ZREM = {}, ZADD = {}, SREM = {}, SADD = {}}

local function note(command, place, first, second)
  local values = noted[command][place]
  if not values then
    values = {}
    noted[command][place] = values
  end
  values[#values + 1] = first
  values[#values + 1] = second
end

local function carry_out(command)
  for place, values in pairs(noted[command]) do
    for first = 1, #values, MOST do
      redis.call(command, P .. place, unpack(values, first, math.min(#values, first + MOST - 1)))
    end
  end
end

local function index_of(order, head)
  local _, _, _, task, agent, run, status, live, ready, _, due = string.match(head, HEAD)
  return {order = order, task = task, agent = agent, run = run, status = status, live = live, ready = ready, due = due}
end

-- The sets by order that a record is in; false for those that it is not in.
local function places(kind, index)
  local task, agent, run, status = index.task, index.agent, index.run, index.status
  local a_run = kind == 'run'
  return {
    'o:' .. kind,
    a_run and 's:' .. status,
    a_run and task ~= '' and 't:' .. task .. '/' .. status,
    a_run and agent ~= '' and index.live == '1' and 'l:' .. agent,
    kind == 'task' and agent ~= '' and 'a:' .. agent,
    kind == 'skip_range' and task ~= '' and 'k:' .. task,
    run ~= '' and 'h:' .. run,
  }
end

-- The set by time that a record is in; false when it is in none.
local function timed(kind, index)
  if index.due == '' then return false end
  if index.ready ~= '1' then return 'd:' .. kind .. '/' .. index.status end
  return index.agent ~= '' and 'q:' .. index.agent
end

-- Agents whose ready runs have changed.
local agents = {}

-- Moves a record between two sets, which may be the same; false stands for none.
local function carry(id, order, was, is)
  if was == is then return end
  if was then note('ZREM', was, id) end
  if is then note('ZADD', is, order, id) end
end

-- Moves a run that has kept its task and agent, as nearly all do: only by its status.
local function move_by_status(id, before, after)
  local task, agent, order = after.task, after.agent, after.order
  if before.status ~= after.status then
    carry(id, order, 's:' .. before.status, 's:' .. after.status)
    if task ~= '' then carry(id, order, 't:' .. task .. '/' .. before.status, 't:' .. task .. '/' .. after.status) end
  end
  if before.live ~= after.live and agent ~= '' then
    local live = 'l:' .. agent
    carry(id, order, before.live == '1' and live, after.live == '1' and live)
  end
end

-- Moves a record from the sets that it was in to those that it is in now; it may not have been, or be, in any.
local function move(id, kind, before, after)
  if before and after and before.task == after.task and before.agent == after.agent and before.run == after.run then
    if kind == 'run' then move_by_status(id, before, after) end
  else
    local from, to = before and places(kind, before) or {}, after and places(kind, after) or {}
    for n = 1, 7 do carry(id, after and after.order, from[n], to[n]) end
  end
  local was, is = before and timed(kind, before), after and timed(kind, after)
  if was ~= is or (is and before.due ~= after.due) then
    if was then note('ZREM', was, before.order .. ' ' .. id) end
    if is then note('ZADD', is, after.due, after.order .. ' ' .. id) end
    if was and before.ready == '1' then agents[before.agent] = true end
    if is and after.ready == '1' then agents[after.agent] = true end
  end
end

local function unlease(id, record)
  if not record or record.till == '' then return end
  note('ZREM', 'leases', record.order .. ' ' .. id)
  note('SREM', 'c:' .. record.token, id)
end

local function delete(id)
  local record = old[id]
  if not record then return end
  move(id, string.match(id, '^[^/]*'), index_of(record.order, record.head), nil)
  unlease(id, record)
  redis.call('DEL', P .. 'r:' .. id, P .. 'e:' .. id)
  old[id] = nil
end

local owner, token, from, till

-- The order of the batch's first new record, less one.
local last_order

local function put()
  local id, kind, new, head, body, lease = arg(), arg(), arg(), arg(), arg(), arg()
  local before, key = old[id], P .. 'r:' .. id
  local order = before and before.order or string.format('%016.0f', last_order + tonumber(new))
  move(id, kind, before and index_of(order, before.head), index_of(order, head))
  if lease == 'end' then
    unlease(id, before)
    redis.call('HSET', key, 'order', order, 'head', head, 'body', body, 'until', '', 'owner', '', 'token', '')
  elseif lease ~= '' then
    note('ZADD', 'leases', till, order .. ' ' .. id)
    note('SADD', 'c:' .. token, id)
    redis.call('HSET', key, 'order', order, 'head', head, 'body', body, 'fence', lease, 'until', till, 'beat', from, 'owner', owner,
      'token', token)
  elseif before then
    redis.call('HSET', key, 'head', head, 'body', body)
  else
    redis.call('HSET', key, 'order', order, 'head', head, 'body', body)
  end
end

local function append()
  local id, all, count = arg(), arg(), number()
  local key = P .. 'e:' .. id
  if all ~= '' then redis.call('HSET', P .. 'r:' .. id, 'head', (string.gsub(old[id].head, '^(%d+),%d+', '%1,' .. all))) end
  while count > 0 do
    local now = math.min(count, MOST)
    redis.call('RPUSH', key, unpack(ARGV, at + 1, at + now))
    at, count = at + now, count - now
  end
end

local function count()
  local key, status = P .. 'n:' .. arg(), arg()
  if redis.call('HINCRBY', key, status, arg()) == 0 then redis.call('HDEL', key, status) end
end

if not is_current(present(arg())) then return 0 end
for _ = 1, number() do delete(arg()) end
owner, token, from, till = arg(), arg(), arg(), arg()
last_order = tonumber(redis.call('HGET', KEYS[1], 'order') or 0)
for _ = 1, number() do put() end
for _, command in ipairs({'ZREM', 'ZADD', 'SREM', 'SADD'}) do carry_out(command) end
for _ = 1, number() do append() end
for _ = 1, number() do count() end
local made = arg()
if made ~= '0' then redis.call('HINCRBY', KEYS[1], 'order', made) end
for agent in pairs(agents) do
  redis.call(redis.call('EXISTS', P .. 'q:' .. agent) == 1 and 'SADD' or 'SREM', P .. 'agents', agent)
end
return 1
