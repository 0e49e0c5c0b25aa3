-- Renews leases, and touches nothing else.
-- ARGV: the present in place of the server's, or nothing; owner, how long in microseconds; a count, and that many runs with fences.
-- Answers: until when they are held; for each run 0 when its lease is lost, 1 when it is held, 2 when a cancel was asked for too; the
-- server's present.
local now, owner, span = present(arg()), arg(), number()
local till, answers = text(now + span), {}
for n = 1, number() do
  local id, fence = arg(), arg()
  local key = P .. 'r:' .. id
  local fields = redis.call('HMGET', key, 'fence', 'owner', 'until', 'order', 'head')
  answers[n] = 0
  if fields[1] == fence and fields[2] == owner and fields[3] ~= '' and tonumber(fields[3]) > now then
    redis.call('HSET', key, 'until', till, 'beat', text(now))
    redis.call('ZADD', P .. 'leases', till, fields[4] .. ' ' .. id)
    local cancel = select(10, string.match(fields[5], HEAD))
    answers[n] = cancel == '1' and 2 or 1
  end
end
return {till, answers, server_time()}
