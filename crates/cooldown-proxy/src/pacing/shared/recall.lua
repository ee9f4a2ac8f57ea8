-- What holds of what was told: in turns the text, how many milliseconds ago it was told, and for how many it still holds.
-- KEYS[1] as in tell.lua.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told = {}
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
    local since, ends, text = string.match(value, '^(%d+) (%d+) (.*)$')
    if ends and tonumber(ends) > now then
        told[#told + 1] = text
        told[#told + 1] = string.format('%.0f', math.max(now - since, 0))
        told[#told + 1] = string.format('%.0f', ends - now)
    end
end
return told
