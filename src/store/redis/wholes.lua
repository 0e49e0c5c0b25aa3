-- Records of a kind as they are, behind an order.
-- ARGV: kind, order, how many.
-- Answers: each with its order, head, fence, when its lease ends, when it was renewed, body, how many events it has, name, whose the
-- lease is, and the wish that it was given to.
local names = redis.call('ZRANGE', P .. 'o:' .. arg(), '(' .. arg(), '+inf', 'BYSCORE', 'LIMIT', 0, number())
local records = {}
for n, id in ipairs(names) do
  local fields = redis.call('HMGET', P .. 'r:' .. id, 'order', 'head', 'fence', 'until', 'beat', 'body', 'order', 'order', 'owner', 'token')
  fields[7], fields[8] = events_of(id), id
  records[n] = fields
end
return records
