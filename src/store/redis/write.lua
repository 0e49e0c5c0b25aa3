-- Writes a batch, if all that it was decided by is still so.
-- ARGV, each list behind its length:
--   the present in place of the server's, or nothing
--   looked at:  record, its rev or nothing when there was none, how many events it has or nothing
--   hanging:    run key, how many records hang on it
--   held:       run whose lease must not have passed
--   limits:     agent, how many of its runs may be leased, how many more will be
--   deleted:    record
--   unleased:   run
--   rows:       record, its kind, its place among the batch's new ones or nothing, rev, change, task, agent, run, status, live, ready,
--               cancel, due, body
--   leased:     fence, run; before them the owner, the token, when it is taken, when it ends
--   events:     run, how many, the events
--   counts:     scope, status, by how many
--   and how many new records the batch has made
-- Answers: 1 when it was written, 0 when it must be decided anew.

-- By name, what the indexes hold of the records that were looked at.
local old = {}
local ORDER, TASK, AGENT, RUN, STATUS, LIVE, READY, DUE, UNTIL, OWNER, TOKEN = 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12

local function as_it_was(id, rev, events)
  local fields = redis.call('HMGET', P .. 'r:' .. id, 'rev', 'order', 'task', 'agent', 'run', 'status', 'live', 'ready', 'due',
    'until', 'owner', 'token')
  if fields[1] then old[id] = fields end
  return (fields[1] or '') == rev and (events == '' or events_of(id) == tonumber(events))
end

local function is_current(now)
  for _ = 1, number() do
    if not as_it_was(arg(), arg(), arg()) then return false end
  end
  for _ = 1, number() do
    if redis.call('ZCARD', P .. 'h:' .. arg()) ~= number() then return false end
  end
  for _ = 1, number() do
    local run = old[arg()]
    if not (run and run[UNTIL] and tonumber(run[UNTIL]) > now) then return false end
  end
  for _ = 1, number() do
    local agent, most, more = arg(), number(), number()
    if leased(agent) + more > most then return false end
  end
  return true
end

-- The sets by order that a record is in; false for those that it is not in.
local function places(kind, fields)
  local task, agent, run, status = fields[TASK], fields[AGENT], fields[RUN], fields[STATUS]
  local a_run = kind == 'run'
  return {
    'o:' .. kind,
    a_run and 's:' .. status,
    a_run and task ~= '' and 't:' .. task .. '/' .. status,
    a_run and agent ~= '' and fields[LIVE] == '1' and 'l:' .. agent,
    kind == 'task' and agent ~= '' and 'a:' .. agent,
    kind == 'skip_range' and task ~= '' and 'k:' .. task,
    run ~= '' and 'h:' .. run,
  }
end

-- The set by time that a record is in; false when it is in none.
local function timed(kind, fields)
  if fields[DUE] == '' then return false end
  if fields[READY] ~= '1' then return 'd:' .. kind .. '/' .. fields[STATUS] end
  return fields[AGENT] ~= '' and 'q:' .. fields[AGENT]
end

local function unlease(id, fields)
  if not fields[UNTIL] then return end
  redis.call('ZREM', P .. 'leases', fields[ORDER] .. ' ' .. id)
  redis.call('SREM', P .. 'c:' .. fields[TOKEN], id)
  redis.call('HDEL', P .. 'r:' .. id, 'until', 'owner', 'token')
  fields[UNTIL] = false
end

-- Agents whose ready runs have changed.
local agents = {}

-- Takes a record out of the set by time that it was in.
local function untime(id, fields, time)
  redis.call('ZREM', P .. time, fields[ORDER] .. ' ' .. id)
  if fields[READY] == '1' then agents[fields[AGENT]] = true end
end

local function kind_of(id)
  return string.match(id, '^[^/]*')
end

local function delete(id)
  local fields = old[id]
  if not fields then return end
  local kind = kind_of(id)
  for n, place in ipairs(places(kind, fields)) do
    if place then redis.call('ZREM', P .. place, id) end
  end
  local time = timed(kind, fields)
  if time then untime(id, fields, time) end
  unlease(id, fields)
  redis.call('DEL', P .. 'r:' .. id, P .. 'b:' .. id, P .. 'e:' .. id)
  old[id] = nil
end

-- Moves a record from the sets that it was in to those that it is in now.
local function move(id, kind, before, after)
  local from, to = before and places(kind, before) or {}, places(kind, after)
  for n, place in ipairs(to) do
    if place ~= from[n] then
      if from[n] then redis.call('ZREM', P .. from[n], id) end
      if place then redis.call('ZADD', P .. place, after[ORDER], id) end
    end
  end
  local was, is = before and timed(kind, before), timed(kind, after)
  if was and was ~= is then untime(id, before, was) end
  if is and (was ~= is or before[DUE] ~= after[DUE]) then
    redis.call('ZADD', P .. is, after[DUE], after[ORDER] .. ' ' .. id)
    if after[READY] == '1' then agents[after[AGENT]] = true end
  end
end

-- The order of the batch's n-th new record.
local first_order
local function order(n)
  return string.format('%016.0f', first_order + tonumber(n))
end

local function put()
  local id, kind, new, rev, change = arg(), arg(), arg(), arg(), arg()
  local before = old[id]
  local after = {rev, before and before[ORDER] or order(new), arg(), arg(), arg(), arg(), arg(), arg()}
  local cancel = arg()
  after[DUE] = arg()
  move(id, kind, before, after)
  redis.call('HSET', P .. 'r:' .. id, 'order', after[ORDER], 'rev', rev, 'change', change, 'task', after[TASK],
    'agent', after[AGENT], 'run', after[RUN], 'status', after[STATUS], 'live', after[LIVE], 'ready', after[READY],
    'cancel', cancel, 'due', after[DUE])
  redis.call('SET', P .. 'b:' .. id, arg())
  old[id] = after
end

local function lease()
  local count, owner, token, from, till = number(), arg(), arg(), arg(), arg()
  for _ = 1, count do
    local fence, id = arg(), arg()
    redis.call('HSET', P .. 'r:' .. id, 'fence', fence, 'until', till, 'beat', from, 'owner', owner, 'token', token)
    redis.call('ZADD', P .. 'leases', till, old[id][ORDER] .. ' ' .. id)
    redis.call('SADD', P .. 'c:' .. token, id)
  end
end

local function append()
  local key, count = P .. 'e:' .. arg(), number()
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
for _ = 1, number() do
  local id = arg()
  if old[id] then unlease(id, old[id]) end
end
first_order = tonumber(redis.call('HGET', KEYS[1], 'order') or 0)
for _ = 1, number() do put() end
lease()
for _ = 1, number() do append() end
for _ = 1, number() do count() end
local made = arg()
if made ~= '0' then redis.call('HINCRBY', KEYS[1], 'order', made) end
for agent in pairs(agents) do
  redis.call(redis.call('EXISTS', P .. 'q:' .. agent) == 1 and 'SADD' or 'SREM', P .. 'agents', agent)
end
return 1
