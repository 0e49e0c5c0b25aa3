-- Writes records as they are, none of which is there yet.
-- ARGV, each list behind its length:
--   rows:       record, its kind, order, head, body, and of a run: its fence, when its lease ends, when it was renewed, whose it is, the
--               wish that it was given to; nothing for what is not there
--   events:     run, how many, the events
--   counts:     scope, status, by how many
--   and the last order of them
-- Answers: 1 when it was written, 0 when a name is taken.
local FIELDS = 10

local function is_free()
  local rows = number()
  for row = 0, rows - 1 do
    if redis.call('EXISTS', P .. 'r:' .. ARGV[at + row * FIELDS + 1]) == 1 then return false end
  end
  at = at - 1
  return true
end

local function put()
  local id, kind, order, head, body = arg(), arg(), arg(), arg(), arg()
  local fence, till, beat, owner, token = arg(), arg(), arg(), arg(), arg()
  move(id, kind, nil, index_of(order, head))
  local key = P .. 'r:' .. id
  redis.call('HSET', key, 'order', order, 'head', head, 'body', body)
  if fence ~= '' then
    redis.call('HSET', key, 'fence', fence, 'until', till, 'beat', beat, 'owner', owner, 'token', token)
  end
  if till ~= '' then
    note('ZADD', 'leases', till, order .. ' ' .. id)
    note('SADD', 'c:' .. token, id)
  end
end

if not is_free() then return 0 end
for _ = 1, number() do put() end
carry_out_all()
for _ = 1, number() do push(P .. 'e:' .. arg(), number()) end
for _ = 1, number() do count() end
local last = number()
if tonumber(redis.call('HGET', KEYS[1], 'order') or 0) < last then redis.call('HSET', KEYS[1], 'order', text(last)) end
note_agents()
return 1
