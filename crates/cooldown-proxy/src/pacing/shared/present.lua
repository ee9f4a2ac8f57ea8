-- Counts the instances that are there, and tells all who listen when there are more or fewer.
--
-- KEYS[1] all of them, by when they are taken for gone. ARGV: the channel, a name, for how many milliseconds it is there (0:
-- it leaves), what to tell before the number and after it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lasting = tonumber(ARGV[3])
local changes = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if lasting > 0 then
    changes = changes + redis.call('ZADD', KEYS[1], string.format('%.0f', now + lasting), ARGV[2])
    redis.call('PEXPIRE', KEYS[1], 10 * lasting)
else
    changes = changes + redis.call('ZREM', KEYS[1], ARGV[2])
end
local count = redis.call('ZCARD', KEYS[1])
if changes > 0 then redis.call('PUBLISH', ARGV[1], ARGV[4] .. string.format('%.0f', count) .. ARGV[5]) end
return count
