-- What is due, longest due first.
-- ARGV: the present in place of the server's, or nothing; what:
--   ready                  and nothing else: only when the next is due
--   timed LIMIT SPAN N …   records that have been due for SPAN microseconds in N sets by time
--   older LIMIT DAEMON CURRENT   runs leased by other workers of that daemon
-- Answers: the present that judged, the server's, when the next is due (or nothing), the records.
local now = present(arg())

-- The first time in a set that lies behind another; false when there is none.
local function next_after(key, time)
  local found = redis.call('ZRANGE', key, '(' .. text(time), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  return found[2] and tonumber(found[2])
end

local function earlier(one, other)
  return one and (not other or one < other) and one or other
end

local function ready()
  local first = false
  for _, agent in ipairs(redis.call('SMEMBERS', P .. 'agents')) do
    first = earlier(next_after(P .. 'q:' .. agent, now), first)
  end
  return first, {}
end

local function timed()
  local limit, span, passed, first = number(), number(), {}, false
  for _ = 1, number() do
    local key = P .. arg()
    local found = redis.call('ZRANGE', key, '-inf', text(now - span), 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
    for n = 1, #found, 2 do passed[#passed + 1] = {tonumber(found[n + 1]), found[n]} end
    first = earlier(next_after(key, now - span), first)
  end
  table.sort(passed, function(one, other)
    return one[1] < other[1] or (one[1] == other[1] and one[2] < other[2])
  end)
  local records = {}
  for n = 1, math.min(limit, #passed) do records[n] = record(name_of(passed[n][2])) end
  return first and first + span, records
end

local function older()
  local limit, daemon, current, records, read = number(), arg(), arg(), {}, 0
  repeat
    local found = redis.call('ZRANGE', P .. 'leases', read, read + MOST - 1)
    for _, member in ipairs(found) do
      local id = name_of(member)
      local owner = redis.call('HGET', P .. 'r:' .. id, 'owner')
      if owner and owner ~= current and string.match(owner, '^(.*)%.[^.]*$') == daemon then
        records[#records + 1] = record(id)
        if #records >= limit then return false, records end
      end
    end
    read = read + MOST
  until #found < MOST
  return false, records
end

local next, records = ({ready = ready, timed = timed, older = older})[arg()]()
return {text(now), server_time(), next and text(next), records}
