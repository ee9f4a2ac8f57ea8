-- Hears what one instance holds of one shared limit, and answers what it may hold. ledger.rs does the same, and is
-- where it is explained; a test holds the two together.
--
-- KEYS[1] the limit. ARGV: name, boot, then the numbers of Renewal::arguments. Tests add the time and the server.
local name, boot = ARGV[1], ARGV[2]
local number, amount, hold, lease_for, forget, recovery, spare, turn_for, said_held, said_floor, want, need, weight,
    known_floors, told, generation, settled, leaves, most = unpack((function()
        local numbers = {}
        for i = 3, 21 do numbers[i - 2] = tonumber(ARGV[i]) end
        return numbers
    end)())
local REMEMBERED, RETURNING, HERE, NEW = 0, 1, 2, 3
local LONGEST_STEP, LARGEST_WEIGHT, GRAINS = 500, 4000, 4096
local floor_of = math.floor

local function saturating(a, b) return math.max(a - b, 0) end
local function text(n) return string.format('%.0f', n) end

local function machine()
    if ARGV[22] then return tonumber(ARGV[22]), ARGV[23] end
    local time = redis.call('TIME')
    local told = redis.pcall('INFO', 'server')
    local server = type(told) == 'string' and string.match(told, 'run_id:(%x+)') or '?'
    return time[1] * 1000 + floor_of(time[2] / 1000), server
end

-- What is remembered: one field for the store, one for each instance.
local FIELDS = {'number', 'held', 'floor', 'lease', 'past', 'past_until', 'want', 'need', 'weight', 'knows', 'told',
    'came'}
local META = {'generation', 'time', 'now', 'recovers', 'told_floors', 'orphans', 'orphans_until', 'told', 'returned'}
local store, entries, names, changed = {server = ''}, {}, {}, {}

local function read(line, fields, first)
    local values, at = {}, 0
    for word in string.gmatch(line, '%S+') do
        if at == 0 then values[first] = word else values[fields[at]] = tonumber(word) end
        at = at + 1
    end
    return values
end

local function write(values, fields, first)
    local words = {values[first]}
    for _, field in ipairs(fields) do words[#words + 1] = text(values[field]) end
    return table.concat(words, ' ')
end

local function load()
    for _, field in ipairs(META) do store[field] = 0 end
    local stored = redis.call('HGETALL', KEYS[1])
    for i = 1, #stored, 2 do
        if stored[i] == '' then
            store = read(stored[i + 1], META, 'server')
        else
            local who = string.sub(stored[i], 2)
            entries[who] = read(stored[i + 1], FIELDS, 'boot')
            names[#names + 1] = who
        end
    end
    table.sort(names)
end

local function save()
    local gone, kept = {}, {'', write(store, META, 'server')}
    for who, what in pairs(changed) do
        local entry = entries[who]
        if entry then
            kept[#kept + 1] = ':' .. who
            kept[#kept + 1] = write(entry, FIELDS, 'boot')
        else
            gone[#gone + 1] = ':' .. who
        end
    end
    if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
    redis.call('HSET', KEYS[1], unpack(kept))
    redis.call('PEXPIRE', KEYS[1], text(lease_for + forget))
end

-- Those that have not left, in order of their names.
local function known()
    local at = 0
    return function()
        repeat at = at + 1 until names[at] == nil or (entries[names[at]] and entries[names[at]].boot ~= '-')
        return names[at], entries[names[at]]
    end
end

local function sum(field)
    local total = 0
    for _, entry in pairs(entries) do total = total + entry[field] end
    return total
end

local function instances()
    local count = 0
    for _ in known() do count = count + 1 end
    return count
end

local function all()
    local remembered, returning = 0, 0
    for _, entry in known() do
        if entry.came == REMEMBERED then remembered = remembered + 1 end
        if entry.came == RETURNING then returning = returning + 1 end
    end
    local missing = saturating(store.told, store.returned + returning)
    return instances() - remembered + math.max(remembered, missing)
end

local function is_missing()
    return store.returned < store.told
end

local function tick()
    local time, server = machine()
    if store.server ~= server then
        store.server, store.generation, store.time = server, time, time
        store.told_floors, store.orphans = sum('floor') + store.orphans, 0
        store.told, store.returned = all(), 0
        for who, entry in pairs(entries) do
            if entry.came ~= REMEMBERED then entry.came, changed[who] = REMEMBERED, true end
        end
        store.recovers = store.now + recovery
    end
    store.now = store.now + math.min(saturating(time, store.time), LONGEST_STEP)
    store.time = time
    if store.recovers > 0 and store.now > store.recovers then
        store.recovers = 0
        store.orphans = is_missing() and saturating(store.told_floors, sum('floor')) or 0
        store.orphans_until = store.now + lease_for + forget
    end
    if store.recovers == 0 and store.now > store.orphans_until then
        store.orphans, store.told, store.returned = 0, 0, 0
    end
end

local function let_go()
    for who, entry in pairs(entries) do
        if store.now > entry.past_until and entry.past > 0 then entry.past, changed[who] = 0, true end
        if store.now > entry.lease + hold and entry.held ~= entry.floor then
            entry.held, changed[who] = entry.floor, true
        end
        local stays
        if entry.boot == '-' then stays = entry.past > 0 else stays = store.now <= entry.lease + forget end
        if not stays then entries[who], changed[who] = nil, true end
    end
end

local function count(entry)
    local knows_us = generation == store.generation
    if not knows_us then store.told = math.max(store.told, told) end
    local was_there = settled == 1 and not knows_us
    if entry.came == REMEMBERED and was_there and store.recovers == 0 then
        store.orphans = store.orphans - math.min(store.orphans, saturating(said_floor, entry.floor))
    end
    if entry.came == RETURNING and entry.boot == boot and knows_us then
        entry.came = HERE
        store.returned = store.returned + 1
        if store.recovers == 0 and not is_missing() then store.orphans = 0 end
    elseif entry.came ~= HERE then
        entry.came = was_there and RETURNING or NEW
    end
end

local function hear()
    local entry, sure = entries[name], store.now + LONGEST_STEP
    if not entry then
        local count = 0
        for _ in pairs(entries) do count = count + 1 end
        if count >= most then return 3 end
        entry = {boot = '-'}
        for _, field in ipairs(FIELDS) do entry[field] = 0 end
        entries[name] = entry
        if not changed[name] then
            names[#names + 1] = name
            table.sort(names)
        end
    end
    if entry.boot == boot and number <= entry.number then return 2 end
    changed[name] = true
    count(entry)
    if entry.boot ~= boot then
        if entry.held > 0 then
            entry.past = entry.past + entry.held
            entry.past_until = math.max(entry.past_until, math.max(entry.lease, sure) + hold)
        end
        entry.boot = boot
    end
    entry.number, entry.held, entry.floor = number, math.max(said_held, said_floor), said_floor
    entry.lease = store.now + lease_for
    entry.want, entry.need = math.min(want, amount), math.min(need, amount)
    entry.weight = math.max(1, math.min(weight, LARGEST_WEIGHT))
    entry.knows, entry.told = known_floors, told
    if leaves == 1 then
        entry.past = entry.past + entry.held
        entry.past_until = math.max(entry.past_until, sure + hold)
        entry.boot, entry.held, entry.floor, entry.lease = '-', 0, 0, 0
    end
end

-- divide.rs

local function in_turn(count, turn)
    local at = -1
    return function()
        at = at + 1
        if at < count then return (turn + at) % count + 1 end
    end
end

local function fill(capacity, claims, turn, first)
    local shares, open, rest = {}, {}, capacity
    for i = 1, #claims do shares[i], open[i] = 0, true end
    if first then
        shares[first] = math.min(claims[first].need, rest)
        rest, open[first] = rest - shares[first], false
    end
    local weights
    while true do
        weights = 0
        for i, claim in ipairs(claims) do if open[i] then weights = weights + claim.weight end end
        local given = nil
        local before = rest
        for i, claim in ipairs(claims) do
            if open[i] and claim.want * weights <= before * claim.weight then
                shares[i], open[i], given = claim.want, false, true
                rest = rest - claim.want
            end
        end
        if not given then break end
    end
    local left = rest
    for i, claim in ipairs(claims) do
        if open[i] then
            shares[i] = floor_of(rest * claim.weight / weights)
            left = left - shares[i]
        end
    end
    for i in in_turn(#claims, turn) do
        if open[i] then
            local more = math.min(left, 1)
            shares[i], left = shares[i] + more, left - more
        end
    end
    return shares
end

local function divide(capacity, claims, turn)
    local shares = fill(capacity, claims, turn)
    for i in in_turn(#claims, turn) do
        if shares[i] < math.min(claims[i].need, claims[i].want) then return fill(capacity, claims, turn, i) end
    end
    local wanted = 0
    for _, claim in ipairs(claims) do wanted = wanted + claim.want end
    if wanted > capacity then return shares end
    local more = math.min(floor_of((capacity - wanted) / #claims), spare)
    for i = 1, #claims do shares[i] = shares[i] + more end
    return shares
end

local function reserve()
    local silent = 0
    for _, entry in known() do if entry.lease < store.now then silent = silent + entry.floor end end
    return saturating(floor_of(amount / 50), silent + store.orphans)
end

local function floors_of(all)
    local thousandths = 310
    if all <= 2 then thousandths = 290 elseif all == 3 then thousandths = 210 end
    return floor_of(amount * thousandths / 1000)
end

local function floor_for(wanted, all, rank)
    if wanted == 0 then return floor_of(floor_of(amount / 20) / all) end
    local floors = floors_of(all)
    return floor_of(floors / all) + (rank < floors % all and 1 or 0)
end

local function aim()
    local capacity, fixed, claims = amount - reserve(), store.orphans, {}
    local own, own_floor, rank, all, floors = 0, 0, 0, instances(), store.orphans
    for who, entry in known() do
        if entry.lease < store.now then
            fixed, floors = fixed + entry.held, floors + entry.floor
        else
            local floor = floor_for(entry.want, all, rank)
            floors = floors + floor
            claims[#claims + 1] = {want = math.max(entry.want, floor), need = entry.need, weight = entry.weight}
            if who == name then own, own_floor = #claims, floor end
        end
        rank = rank + 1
    end
    capacity = saturating(capacity, fixed + sum('past'))
    return divide(capacity, claims, floor_of(store.now / turn_for))[own], own_floor,
        math.min(floors, floors_of(4))
end

local function fitting(held)
    local all = sum('held') + sum('past')
    if all <= amount then return held end
    return floor_of(held * floor_of(amount * GRAINS / all) / GRAINS)
end

local function told_to_others()
    local floors, count = math.huge, math.huge
    for who, entry in known() do
        if who ~= name and entry.lease >= store.now then
            floors, count = math.min(floors, entry.knows), math.min(count, entry.told)
        end
    end
    return floors, count
end

local function give(target, floor)
    local free = saturating(amount, reserve() + store.orphans + sum('held') + sum('past'))
    local told_floors, others_told = told_to_others()
    local floors = others_told < all() and 0 or math.min(told_floors, floors_of(4))
    floors = saturating(floors, sum('floor') + store.orphans)
    local entry = entries[name]
    entry.held = entry.held + math.min(saturating(target, entry.held), free)
    floor = math.min(floor, entry.held)
    entry.floor = entry.floor + math.min(saturating(floor, entry.floor), floors)
    return math.min(floor, entry.floor)
end

local function answer(outcome, held, target, floor, floors)
    save()
    floors = math.max(floors, sum('floor') + store.orphans)
    return {outcome, number, held, target, floor, floors, all(), store.generation}
end

load()
tick()
let_go()
local refused = hear()
if refused then return answer(refused, 0, 0, 0, 0) end
if leaves == 1 then return answer(0, 0, 0, 0, 0) end
local entry = entries[name]
if store.recovers > 0 then
    store.told_floors = math.max(store.told_floors, known_floors)
    return answer(1, entry.held, fitting(entry.held), entry.floor, store.told_floors)
end
local target, floor, floors = aim()
floor = give(target, floor)
return answer(0, entry.held, math.min(target, entry.held), floor, floors)
