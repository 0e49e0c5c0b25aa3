-- What all scripts share. KEYS[1] is the store's own hash, `{prefix}`; every other key begins with it and a colon:
--   r:ID           hash      a record: order, head, body; of a run that was leased also fence, until, beat, owner, token
--   e:ID           list      a run's events; the first is number 1
--   o:KIND         zset      records by order; and so s:STATUS and t:TASK/STATUS runs, l:AGENT live runs, a:AGENT tasks, k:TASK skip
--                            ranges, b:AGENT buckets of key-values, h:RUN what hangs on a run
--   q:AGENT        zset      ready runs by due time, and those of one time by order; and so d:KIND/STATUS what else has a due time
--   leases         zset      leased runs by the lease's end
--   c:TOKEN        set       leased runs by the wish that they were given to
--   n:SCOPE        hash      counts by status
--   agents         set       agents that have ready runs
-- Times, orders and revs are texts: a number of Lua is a double, and loses digits when it becomes one.

-- A head: rev, how many events, change, task, agent, run, status, live, ready, cancel, due; what is not there is empty. One text, for a value costs more
-- than its length.
local HEAD = '^(%d+),(%d+)' .. string.rep(',([^,]*)', 9) .. '$'

local P = KEYS[1] .. ':'
local MOST = 1000 -- values that one call of the server gets or gives

local at = 0

-- The next argument.
local function arg()
  at = at + 1
  return ARGV[at]
end

-- The next argument, a number below 2^53.
local function number()
  return tonumber(arg())
end

-- Whole numbers as text, without an exponent.
local function text(n)
  return string.format('%.0f', n)
end

-- The server's present, in microseconds.
local function server_time()
  local time = redis.call('TIME')
  return time[1] .. string.format('%06d', time[2])
end

-- The present that judges: the one that is given in place of the server's, or the server's.
local function present(given)
  return tonumber(given ~= '' and given or server_time())
end

-- What a batch needs to know of a record, and its body if that is wanted; nothing when there is none.
local function known(id, with_body)
  local fields = redis.call('HMGET', P .. 'r:' .. id, 'order', 'head', 'fence', 'until', 'beat', with_body and 'body' or 'order')
  return fields[1] and fields
end

-- A record whole; nothing when there is none.
local function record(id)
  local fields = redis.call('HMGET', P .. 'r:' .. id, 'order', 'head', 'fence', 'until', 'beat', 'body', 'owner')
  if not fields[1] then return false end
  fields[8] = id
  return fields
end

-- The record's name in a member of a set by time.
local function name_of(member)
  return string.match(member, '^%d+ (.*)$')
end

-- How many runs of an agent are leased.
local function leased(agent)
  local counts, sum = redis.call('HMGET', P .. 'n:agent/' .. agent, 'claimed', 'running', 'retrying'), 0
  for n = 1, 3 do sum = sum + (tonumber(counts[n] or 0)) end
  return sum
end
