-- A page of a list.
-- ARGV: how many, the order to start behind or nothing, whether the newest come first, what names begin with; a count, and that many sets
-- by order, which are walked as one.
-- Answers: the records in order.
local limit, after, newest, prefix = number(), arg(), arg() == '1', arg()
local first, last = (after == '' and '-inf' or '(' .. after), '+inf'
if newest then first, last = (after == '' and '+inf' or '(' .. after), '-inf' end

local found = {}

-- Takes as many as are wanted from one set.
local function take(key)
  local read, taken = 0, 0
  repeat
    local names
    if newest then
      names = redis.call('ZRANGE', key, first, last, 'BYSCORE', 'REV', 'LIMIT', read, limit, 'WITHSCORES')
    else
      names = redis.call('ZRANGE', key, first, last, 'BYSCORE', 'LIMIT', read, limit, 'WITHSCORES')
    end
    for n = 1, #names, 2 do
      if taken < limit and string.sub(names[n], 1, #prefix) == prefix then
        found[#found + 1] = {tonumber(names[n + 1]), names[n]}
        taken = taken + 1
      end
    end
    read = read + limit
  until #names < 2 * limit or taken >= limit
end

for _ = 1, number() do take(P .. arg()) end
table.sort(found, function(one, other)
  if newest then return one[1] > other[1] end
  return one[1] < other[1]
end)
local records = {}
for n = 1, math.min(limit, #found) do records[n] = record(found[n][2]) end
return records
