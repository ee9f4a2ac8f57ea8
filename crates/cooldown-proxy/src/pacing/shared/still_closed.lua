-- What is closed, and for how many milliseconds still, in turns. KEYS[1] as in closed.lua.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES')
for nth = 2, #found, 2 do found[nth] = string.format('%.0f', tonumber(found[nth]) - now) end
return found
