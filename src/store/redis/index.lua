-- The sets that records are found by, events and counts: what writes have in common.

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
    kind == 'key_value' and agent ~= '' and 'b:' .. agent,
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
    for n = 1, 8 do carry(id, after and after.order, from[n], to[n]) end
  end
  local was, is = before and timed(kind, before), after and timed(kind, after)
  if was ~= is or (is and before.due ~= after.due) then
    if was then note('ZREM', was, before.order .. ' ' .. id) end
    if is then note('ZADD', is, after.due, after.order .. ' ' .. id) end
    if was and before.ready == '1' then agents[before.agent] = true end
    if is and after.ready == '1' then agents[after.agent] = true end
  end
end

-- Brings the sets up to what was noted.
local function carry_out_all()
  for _, command in ipairs({'ZREM', 'ZADD', 'SREM', 'SADD'}) do carry_out(command) end
end

-- Appends so many events, which are the next arguments.
local function push(key, count)
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

-- Notes which agents have ready runs.
local function note_agents()
  for agent in pairs(agents) do
    redis.call(redis.call('EXISTS', P .. 'q:' .. agent) == 1 and 'SADD' or 'SREM', P .. 'agents', agent)
  end
end
