-- What a wish was given before, or else what it may have now: ready runs that are due, longest due first.
-- ARGV: the present in place of the server's, or nothing; owner, token, how many runs; a count, and for each wanted agent its id and how
-- many of its runs may be leased, or nothing for any number.
-- Answers: the server's present; the fence that all to come lie above; the records given before, each with how many events it has;
-- the runs found, each with its agent's place from 0, its name, and what is known of it with its body.
local now, owner, token, limit = present(arg()), arg(), arg(), number()

local earlier = {}
for _, id in ipairs(redis.call('SMEMBERS', P .. 'c:' .. token)) do
  if redis.call('HGET', P .. 'r:' .. id, 'owner') == owner then earlier[#earlier + 1] = {record(id), redis.call('LLEN', P .. 'e:' .. id)} end
end

-- A queue for each agent, read as far as it is needed.
local queues = {}
for place = 0, (#earlier == 0 and limit > 0 and number() or 0) - 1 do
  local agent, most = arg(), arg()
  local room = most == '' and limit or math.min(limit, tonumber(most) - leased(agent))
  if room > 0 then queues[#queues + 1] = {place = place, key = P .. 'q:' .. agent, room = room, read = 0, next = 1, runs = {}} end
end
local step = math.min(MOST, math.max(8, math.ceil(limit / math.max(1, #queues))))

-- Brings the queue's next run to its head; false when there is none.
local function advance(queue)
  if queue.runs[queue.next] == nil then
    local count = math.min(step, queue.room - queue.read)
    if count <= 0 or queue.ended then return false end
    queue.runs = redis.call('ZRANGE', queue.key, '-inf', text(now), 'BYSCORE', 'LIMIT', queue.read, count, 'WITHSCORES')
    queue.read, queue.next, queue.ended = queue.read + count, 1, #queue.runs < 2 * count
    if #queue.runs == 0 then return false end
  end
  queue.member, queue.due = queue.runs[queue.next], tonumber(queue.runs[queue.next + 1])
  queue.next = queue.next + 2
  return true
end

local function is_before(one, other)
  return one.due < other.due or (one.due == other.due and one.member < other.member)
end

local found, waiting = {}, {}
for _, queue in ipairs(queues) do
  if advance(queue) then waiting[#waiting + 1] = queue end
end
while #found < limit and #waiting > 0 do
  local first = 1
  for n = 2, #waiting do
    if is_before(waiting[n], waiting[first]) then first = n end
  end
  local queue = waiting[first]
  local id = name_of(queue.member)
  found[#found + 1] = {queue.place, id, known(id, true)}
  if not advance(queue) then table.remove(waiting, first) end
end
return {server_time(), redis.call('HGET', KEYS[1], 'fence'), earlier, found}
