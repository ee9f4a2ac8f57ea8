-- Remembers what an upstream has closed until it opens, and tells all who listen.
--
-- KEYS[1] all that is closed, by when it opens. ARGV: the channel, what is closed, for how many milliseconds, what to tell.
local MOST, LONGEST = 1000, 86400000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = math.min(tonumber(ARGV[3]), LONGEST)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], 'GT', string.format('%.0f', now + left), ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -MOST - 1)
redis.call('PEXPIRE', KEYS[1], LONGEST)
redis.call('PUBLISH', ARGV[1], ARGV[4])
return 1
