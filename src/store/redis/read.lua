-- What a batch needs to know.
-- ARGV: a count, and the names of that many records; a count, and the keys of that many runs.
-- Answers: the server's present; what is known of each record; and for each run what hangs on it: names, and what is known of each.
local found, hanging = {}, {}
for n = 1, number() do found[n] = known(arg()) end
for n = 1, number() do
  local names = redis.call('ZRANGE', P .. 'h:' .. arg(), 0, -1)
  for m, id in ipairs(names) do names[m] = {id, known(id)} end
  hanging[n] = names
end
return {server_time(), found, hanging}
