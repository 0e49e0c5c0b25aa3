-- Records of a kind as they are, behind an order.
-- ARGV: kind, order, how many.
-- Answers: each with its order, head, fence, when its lease ends, when it was renewed, body, whose the lease is, the wish that it was
-- given to, and its name.
local names = redis.call('ZRANGE', P .. 'o:' .. arg(), '(' .. arg(), '+inf', 'BYSCORE', 'LIMIT', 0, number())
local records = {}
for n, id in ipairs(names) do
  local fields = redis.call('HMGET', P .. 'r:' .. id, 'order', 'head', 'fence', 'until', 'beat', 'body', 'owner', 'token')
  fields[9] = id
  records[n] = fields
end
return records
