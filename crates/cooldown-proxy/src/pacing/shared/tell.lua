-- Remembers what one instance tells the others for as long as it holds, and tells all who listen.
--
-- KEYS[1] what is remembered: when it was told, until when it holds, the text. ARGV: the channel, what it is about, the
-- text, for how many milliseconds it holds (0: no more), whether what is remembered stays if it holds for longer.
local MOST, LONGEST = 1000, 86400000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local channel, about, text, lasting, longer_stays = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'

local function ends(value) return tonumber(string.match(value, '^%d+ (%d+) ')) end

local function make_room()
    local kept, all = {}, redis.call('HGETALL', KEYS[1])
    for nth = 1, #all, 2 do
        if ends(all[nth + 1]) <= now then
            redis.call('HDEL', KEYS[1], all[nth])
        else
            kept[#kept + 1] = {about = all[nth], ends = ends(all[nth + 1])}
        end
    end
    table.sort(kept, function(a, b) return a.ends < b.ends end)
    for nth = 1, #kept - MOST do redis.call('HDEL', KEYS[1], kept[nth].about) end
end

if lasting == 0 then
    redis.call('HDEL', KEYS[1], about)
else
    local until_then = now + math.min(lasting, LONGEST)
    local known = redis.call('HGET', KEYS[1], about)
    if not (longer_stays and known and ends(known) >= until_then) then
        redis.call('HSET', KEYS[1], about, string.format('%.0f %.0f %s', now, until_then, text))
    end
    if redis.call('HLEN', KEYS[1]) > MOST then make_room() end
    redis.call('PEXPIRE', KEYS[1], LONGEST)
end
redis.call('PUBLISH', channel, text)
return 1
