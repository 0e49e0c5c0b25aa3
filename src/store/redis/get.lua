-- Records by name.
-- ARGV: a count, and that many names.
-- Answers: each, or nothing.
local records = {}
for n = 1, number() do records[n] = record(arg()) end
return records
