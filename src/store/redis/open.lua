-- Makes the store, or looks at it: at the start of each connection.
-- ARGV: the version that this program writes, the server's run id.
-- Answers: the store's version, the server's present.
local version, server = arg(), arg()
local found = redis.call('HGET', KEYS[1], 'version')
if not found then
  redis.call('HSET', KEYS[1], 'version', version, 'server', server, 'fence', '0')
  found = version
end
-- A server that has started again may have lost its last writes, and fences with them. Those to come lie above any that was given.
if tonumber(found) <= tonumber(version) and redis.call('HGET', KEYS[1], 'server') ~= server then
  redis.call('HSET', KEYS[1], 'server', server, 'fence', string.sub(server_time(), 1, -4))
end
return {found, server_time()}
