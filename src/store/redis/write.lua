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
  push(key, count)
end

if not is_current(present(arg())) then return 0 end
for _ = 1, number() do delete(arg()) end
owner, token, from, till = arg(), arg(), arg(), arg()
last_order = tonumber(redis.call('HGET', KEYS[1], 'order') or 0)
for _ = 1, number() do put() end
carry_out_all()
for _ = 1, number() do append() end
for _ = 1, number() do count() end
local made = arg()
if made ~= '0' then redis.call('HINCRBY', KEYS[1], 'order', made) end
note_agents()
return 1
