-- Events of runs.
-- ARGV: a count, and for that many spans the run, the number that it begins behind, how many.
-- Answers: for each span its events.
local events = {}
for n = 1, number() do
  local key, after, count = P .. 'e:' .. arg(), number(), number()
  events[n] = redis.call('LRANGE', key, text(after), text(after + count - 1))
end
return events
