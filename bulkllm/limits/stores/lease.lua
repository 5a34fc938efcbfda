-- A group's books in a Redis or Valkey server: shares.py, gauge.py and ledger.py once more, atomic where the data is.
--
-- KEYS[1]   the group's only key
-- ARGV[1]   what is to be done, as JSON (redis.py says what is in it)
-- ARGV[2]   a state that the caller remembers, if this server was found to have lost it; else empty
--
-- The state is packed by cmsgpack, which keeps every digit of a number; cjson, which keeps 14, only reads here.
-- Numbers go out as text with 17 digits. The names are those of the Python modules, where the why is explained.

local DEMAND_LASTS, LOOK_AGAIN, SOONEST, CLOCK_STEP = 2.0, 0.1, 0.001, 1.0
local SETTLES, SAME_CLOCK, LIVES = 2.0, 1.0, 8
local ROUND_TRIP = 5.0 -- seconds that an answer may have been under way
local SMALL = 16384 -- bytes: a state of this size goes along with each answer
local SLICES = {bucket = 64, sliding = 128, slots = 1}
local INF = math.huge

local request = cjson.decode(ARGV[1])
local state, now, owners

-- shares.py ---------------------------------------------------------------------------------------------------------

local function water_level(amount, vessels)
    if amount <= 0 then return -INF end
    local edges = {}
    for _, vessel in ipairs(vessels) do
        edges[#edges + 1] = {vessel[1], 1}
        edges[#edges + 1] = {vessel[1] + vessel[2], -1}
    end
    table.sort(edges, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
    local level, width = 0, 0
    for _, edge in ipairs(edges) do
        if width > 0 then
            local takes = (edge[1] - level) * width
            if takes >= amount then return level + amount / width end
            amount = amount - takes
        end
        level, width = edge[1], width + edge[2]
    end
    return INF
end

local function poured(level, ground, room)
    return math.min(math.max(level - ground, 0), room)
end

local function share(own, rivals, free, slack)
    if #rivals == 0 then return math.min(own.room, math.max(free, 0)), 0 end
    local vessels = {{own.standing, own.room}}
    for _, rival in ipairs(rivals) do vessels[#vessels + 1] = {rival.standing, rival.room} end
    local level = water_level(free, vessels)
    local part = poured(level, own.standing, own.room)
    if part >= own.need - slack then
        return part, part < own.room and math.max(free - part, 0) or 0
    end
    local reserved = 0
    for _, rival in ipairs(rivals) do
        if rival.standing < own.standing or (rival.standing == own.standing and rival.since < own.since) then
            reserved = reserved + math.max(rival.need, poured(level, rival.standing, rival.room))
        end
    end
    return free - reserved >= own.need - slack and own.need or 0, reserved
end

-- gauge.py ----------------------------------------------------------------------------------------------------------

local function width_of(gauge) return gauge.period / SLICES[gauge.kind] end
local function slack_of(gauge) return 1e-9 * math.max(1, gauge.capacity * 1e-3) end

local function used(gauge)
    local width, began, sum = width_of(gauge), now - gauge.period, 0
    for number, amount in pairs(gauge.spent) do
        if number * width > began then sum = sum + amount end
    end
    return sum
end

local function gauge_left(gauge)
    if gauge.kind == 'bucket' then
        return math.min(gauge.capacity, gauge.level + (now - gauge.at) * gauge.quota / gauge.period)
    end
    return gauge.capacity - used(gauge)
end

local function define(gauge, meter)
    gauge.kind, gauge.quota, gauge.period = meter.kind, meter.quota, meter.period
    gauge.capacity, gauge.whole = meter.size, meter.whole
end

local function new_gauge(meter)
    local gauge = {level = meter.size, at = now, spent = {}, top = 0}
    define(gauge, meter)
    return gauge
end

local function adopt(gauge, meter)
    if gauge.kind == meter.kind and gauge.quota == meter.quota and gauge.period == meter.period
        and gauge.capacity == meter.size and gauge.whole == meter.whole then
        return
    end
    local left, width, kind = gauge_left(gauge), width_of(gauge), gauge.kind
    define(gauge, meter)
    if width ~= width_of(gauge) then
        -- There and back again must change nothing, however often processes disagree.
        local nearest = width_of(gauge) < width and math.floor or math.ceil
        local resliced = {}
        for number, amount in pairs(gauge.spent) do
            local mine = nearest(number * width / width_of(gauge))
            resliced[mine] = (resliced[mine] or 0) + amount
        end
        gauge.spent = resliced
    end
    if gauge.kind == 'bucket' then
        gauge.level = math.min(gauge.capacity, kind == 'bucket' and left or gauge.quota - used(gauge))
        gauge.at = now
    end
end

local function spend(gauge, amount, stamp)
    if gauge.kind == 'slots' or (gauge.known and stamp <= gauge.known) then return end
    local number = math.ceil(stamp / width_of(gauge))
    if gauge.kind == 'bucket' then
        if stamp > gauge.at then
            gauge.level = math.min(gauge.capacity, gauge.level + (stamp - gauge.at) * gauge.quota / gauge.period)
            gauge.at = stamp
        end
        gauge.level = math.min(gauge.capacity, gauge.level - amount)
    end
    gauge.spent[number] = math.max(0, (gauge.spent[number] or 0) + amount)
end

local function correct_bucket(gauge, at_least, at_most, stamp)
    local width, surely, perhaps = width_of(gauge), 0, 0
    for number, amount in pairs(gauge.spent) do
        if (number - 1) * width >= stamp then surely = surely + amount end
        if number * width > stamp then perhaps = perhaps + amount end
    end
    local refilled = (now - stamp) * gauge.quota / gauge.period
    local before = gauge_left(gauge)
    local level = before
    if at_least then level = math.max(level, math.min(gauge.capacity, at_least + refilled) - perhaps) end
    if at_most then level = math.min(level, gauge.capacity, at_most + refilled - surely) end
    gauge.level, gauge.at = level, now
    return level ~= before
end

local function correct_window(gauge, at_least, at_most, stamp)
    local width, began = width_of(gauge), stamp - gauge.period
    if at_most then
        local perhaps = 0
        for number, amount in pairs(gauge.spent) do
            if began < number * width and number * width < stamp + width then perhaps = perhaps + amount end
        end
        local foreign = gauge.capacity - at_most - perhaps
        if foreign > 0 then
            local number = math.ceil(stamp / width)
            gauge.spent[number] = (gauge.spent[number] or 0) + foreign
            return true
        end
    end
    if at_least then
        local inside, sum = {}, 0
        for number, amount in pairs(gauge.spent) do
            if (number - 1) * width >= began and number * width <= stamp then
                inside[#inside + 1] = number
                sum = sum + amount
            end
        end
        table.sort(inside)
        local surplus = sum - (gauge.capacity - at_least)
        if surplus > 0 then
            for _, number in ipairs(inside) do
                local less = math.min(surplus, gauge.spent[number])
                gauge.spent[number] = gauge.spent[number] - less
                surplus = surplus - less
            end
            return true
        end
    end
    return false
end

local function correct(gauge, at_least, at_most, stamp)
    if (gauge.told and stamp <= gauge.told) or stamp < now - gauge.period then return false end
    gauge.told = stamp
    local moved = (gauge.kind == 'bucket' and correct_bucket or correct_window)(gauge, at_least, at_most, stamp)
    if moved then gauge.known = stamp end
    return true
end

local function wait_for(gauge, missing)
    if missing <= 0 then return 0 end
    if gauge.kind == 'bucket' then return missing * gauge.period / gauge.quota end
    if gauge.kind == 'sliding' then
        local width, numbers = width_of(gauge), {}
        for number in pairs(gauge.spent) do numbers[#numbers + 1] = number end
        table.sort(numbers)
        for _, number in ipairs(numbers) do
            local leaves = number * width + gauge.period
            if leaves > now then
                missing = missing - gauge.spent[number]
                if missing <= slack_of(gauge) then return leaves - now end
            end
        end
    end
    return INF
end

local function as_new_in(gauge)
    if gauge.kind == 'bucket' then
        return math.max(0, (gauge.capacity - gauge.level) * gauge.period / gauge.quota - (now - gauge.at))
    end
    local longest, width = 0, width_of(gauge)
    for number in pairs(gauge.spent) do
        longest = math.max(longest, number * width + 2 * gauge.period - now)
    end
    return longest
end

local function forget(gauge)
    local width, oldest = width_of(gauge), now - (gauge.kind == 'sliding' and 2 or 1) * gauge.period
    for number, amount in pairs(gauge.spent) do
        if number * width <= oldest or amount <= 0 then gauge.spent[number] = nil end
    end
end

-- ledger.py ---------------------------------------------------------------------------------------------------------

local function tick()
    local clock = request.clock
    if not clock then
        local time = redis.call('TIME')
        clock = tonumber(time[1]) + tonumber(time[2]) / 1e6
    end
    local moment = clock + state.offset
    if state.now then
        if moment < state.now - CLOCK_STEP then state.offset = state.offset + (state.now - moment) end
        moment = math.max(moment, state.now)
    end
    now, state.now = moment, moment
    for name, tenant in pairs(state.tenants) do
        if tenant['until'] <= now then state.tenants[name] = nil end
    end
    for pool, till in pairs(state.closed) do
        if till <= now then state.closed[pool] = nil end
    end
end

local function use_gauge(meter)
    if state.gauges[meter.key] then
        adopt(state.gauges[meter.key], meter)
    else
        state.gauges[meter.key] = new_gauge(meter)
    end
    return state.gauges[meter.key]
end

local function held_of(key)
    local sum = 0
    for _, tenant in pairs(state.tenants) do sum = sum + (tenant.held[key] or 0) end
    return sum
end

local function settle(tenant, claim)
    local back = {}
    for key, amount in pairs(tenant.held) do back[key] = amount end
    for _, report in ipairs(claim.reports) do
        if report[1] > tenant.serial then
            tenant.serial = report[1]
            for _, each in ipairs(report[2]) do
                spend(state.gauges[each[1]], each[2], now - each[3])
                back[each[1]] = (back[each[1]] or 0) - each[2]
            end
        end
    end
    tenant.held = {}
    for key, amount in pairs(claim.keep) do
        if amount > 0 then tenant.held[key] = amount end
    end
    for key, amount in pairs(back) do
        local unused = amount - (claim.keep[key] or 0)
        if unused > 0 and tenant.served[key] then tenant.served[key] = tenant.served[key] - unused end
    end
end

local function asks_for(tenant, key)
    local demand = tenant.demands[key]
    return demand and demand['until'] > now and demand
end

local function standing_of(key, tenant)
    local gauge = state.gauges[key]
    if gauge.kind == 'slots' then return tenant.held[key] or 0 end
    local served, demand = tenant.served[key] or 0, asks_for(tenant, key)
    if demand and demand.waiting then return served end
    return math.max(served, gauge.top - gauge.quota / gauge.period * DEMAND_LASTS / owners)
end

local function rivals_of(key, tenant, seen)
    local rivals = {}
    for name, other in pairs(state.tenants) do
        local demand = asks_for(other, key)
        if demand and other ~= tenant then
            seen[name] = true
            rivals[#rivals + 1] = {
                standing = standing_of(key, other), since = demand.since, room = demand.want,
                need = math.min(demand.need, state.gauges[key].capacity),
            }
        end
    end
    return rivals
end

local function make_ask(key, tenant, want, least, seen)
    local gauge = state.gauges[key]
    if gauge.whole then least = math.max(least, math.min(want, 1)) end
    local need, slack, since = math.min(least, gauge.capacity), slack_of(gauge), now
    local old = asks_for(tenant, key)
    if old and old.waiting then since = old.since end
    local own = {standing = standing_of(key, tenant), since = since, room = want, need = need}
    local free = gauge_left(gauge) - held_of(key)
    local offer, reserved = share(own, rivals_of(key, tenant, seen), free, slack)
    if gauge.whole and offer >= 1 then offer = math.floor(offer + slack) end
    if offer >= need - slack and least > offer and gauge.kind ~= 'slots' then offer = least end
    return {
        key = key, gauge = gauge, want = want, least = least, own = own, held = tenant.held[key] or 0, free = free,
        offer = offer, reserved = reserved, fails = offer < need - slack, short = offer < want - slack,
    }
end

local function proportional(asks)
    local ratio, granted = 1, {}
    for _, ask in ipairs(asks) do ratio = math.min(ratio, ask.offer / ask.want) end
    for _, ask in ipairs(asks) do
        local amount = ask.want * ratio
        if ask.gauge.whole then amount = math.floor(amount + slack_of(ask.gauge)) end
        granted[ask.key] = math.max(amount, math.min(ask.least, ask.offer))
    end
    return granted
end

local function hint(ask, amount)
    local rest = ask.want - amount
    local chunk = math.min(rest, ask.least > 0 and ask.least or rest, ask.gauge.capacity)
    local missing = chunk - (ask.free - amount)
    local spent = gauge_left(ask.gauge) - ask.held - amount
    if ask.gauge.kind == 'bucket' and spent + missing > ask.gauge.capacity + slack_of(ask.gauge) then
        return LOOK_AGAIN
    end
    local wait = math.min(wait_for(ask.gauge, missing + ask.reserved), wait_for(ask.gauge, missing) + DEMAND_LASTS)
    return wait == INF and LOOK_AGAIN or math.max(wait, SOONEST)
end

local function hand_out(tenant, ask, amount, till)
    local key, gauge = ask.key, ask.gauge
    tenant.served[key] = ask.own.standing + amount
    if amount > 0 then
        tenant.held[key] = (tenant.held[key] or 0) + amount
        gauge.top = math.max(gauge.top, tenant.served[key])
    end
    local want = ask.short and ask.want or amount
    if gauge.kind == 'slots' then want = ask.short and ask.want - amount or 0 end
    if want > 0 then
        tenant.demands[key] = {
            want = want, need = ask.least, ['until'] = till, since = amount > 0 and now or ask.own.since,
            waiting = ask.short,
        }
    else
        tenant.demands[key] = nil
    end
end

local function grant(tenant, claim)
    local seen, asks, refused, retry_after, held_up, rivals = {}, {}, false, 0, {}, 0
    for _, meter in ipairs(claim.meters) do
        local want, least = claim.want[meter.key] or 0, claim.least[meter.key] or 0
        if want > 0 or least > 0 then
            local ask = make_ask(meter.key, tenant, math.max(want, least), least, seen)
            asks[#asks + 1] = ask
            refused = refused or ask.fails
        elseif claim.want[meter.key] then
            tenant.demands[meter.key] = nil
        end
    end
    local granted = refused and {} or proportional(asks)
    for _, ask in ipairs(asks) do
        local amount, till, is_short = granted[ask.key] or 0, now + DEMAND_LASTS, ask.short
        if refused then is_short = ask.fails end
        if is_short then
            held_up[#held_up + 1] = ask.key
            local wait = hint(ask, amount)
            retry_after = math.max(retry_after, wait)
            till = till + math.min(wait, claim.ttl)
        end
        if is_short or not refused then hand_out(tenant, ask, amount, till) end
        if amount <= 0 then granted[ask.key] = nil end
    end
    for _ in pairs(seen) do rivals = rivals + 1 end
    return granted, retry_after, held_up, rivals
end

local function excess_of(tenant)
    local excess = {}
    for key, held in pairs(tenant.held) do
        local gauge = state.gauges[key]
        if gauge.kind == 'slots' then
            local totals, poorer = {}, false
            for _, other in pairs(state.tenants) do
                local total, demand = other.held[key] or 0, asks_for(other, key)
                if demand then
                    poorer = poorer or total < held
                    total = total + demand.want
                end
                totals[#totals + 1] = {0, total}
            end
            if poorer then
                local level = water_level(gauge.capacity, totals)
                local fair = level >= 1 and math.ceil(level) or 0
                if held > fair then excess[key] = held - fair end
            end
        end
    end
    return excess
end

-- revival.py --------------------------------------------------------------------------------------------------------

local function is_among(name, names)
    for _, each in ipairs(names) do
        if each == name then return true end
    end
    return false
end

local function lacks(epoch, written)
    if not epoch then return false end
    if epoch == state.epoch then return written > state.written end
    if is_among(epoch, state.past) then return state.settling and written > state.settling.written end
    return true
end

local function inherit(gauge, earlier, then_, shift)
    if gauge.kind == 'bucket' then
        local missing = 0
        if earlier.kind == 'bucket' then
            local refilled = (then_ - earlier.at) * earlier.quota / earlier.period
            missing = earlier.capacity - math.min(earlier.capacity, earlier.level + refilled)
        else
            for _, amount in pairs(earlier.spent) do missing = missing + amount end
        end
        gauge.level, gauge.at = gauge_left(gauge) - missing, now
    end
    local same = shift == 0 and width_of(earlier) == width_of(gauge)
    for number, amount in pairs(earlier.spent) do
        if not same then number = math.ceil((number * width_of(earlier) + shift) / width_of(gauge)) end
        gauge.spent[number] = (gauge.spent[number] or 0) + amount
    end
    gauge.top = math.max(gauge.top, earlier.top)
    if earlier.told then gauge.told = math.max(gauge.told or -INF, earlier.told + shift) end
    if earlier.known then gauge.known = math.max(gauge.known or -INF, earlier.known + shift) end
end

local function add_lives(earlier)
    local lives = {}
    for _, past in ipairs({state.past, earlier.past, {earlier.epoch}}) do
        for _, epoch in ipairs(past) do
            if epoch ~= state.epoch and not is_among(epoch, lives) then lives[#lives + 1] = epoch end
        end
    end
    while #lives > LIVES do table.remove(lives, 1) end
    state.past = lives
end

local function take_up(earlier, elapsed)
    local shift = now - elapsed - earlier.now
    if math.abs(shift) < SAME_CLOCK then shift = 0 end
    local related = is_among(earlier.epoch, state.past)
    for _, epoch in ipairs(earlier.past) do related = related or is_among(epoch, state.past) end
    if earlier.epoch == state.epoch or is_among(state.epoch, earlier.past) then
        state.past[#state.past + 1] = state.epoch
        state.epoch = request.new_epoch
        state.closed = {}
        state.settling = {['until'] = now + SETTLES, before = cmsgpack.pack({})}
    elseif not related then
        state.settling = {['until'] = now + SETTLES, before = cmsgpack.pack(state.gauges)}
    elseif not state.settling or earlier.written <= state.settling.written then
        return add_lives(earlier)
    end
    local settling = state.settling
    settling.written = earlier.written
    state.written = math.max(state.written, earlier.written)
    state.gauges = cmsgpack.unpack(settling.before)
    for key, gauge in pairs(earlier.gauges) do
        if not state.gauges[key] then
            state.gauges[key] = new_gauge({
                kind = gauge.kind, quota = gauge.quota, period = gauge.period, size = gauge.capacity,
                whole = gauge.whole,
            })
        end
        inherit(state.gauges[key], gauge, earlier.now, shift)
    end
    for name, tenant in pairs(earlier.tenants) do
        local mine = state.tenants[name]
        if not mine or mine.serial <= tenant.serial then
            if tenant['until'] + shift <= now then tenant.held = {} end
            tenant['until'] = math.max(tenant['until'] + shift, settling['until'] + SETTLES)
            tenant.demands = {}
            state.tenants[name] = tenant
        end
    end
    for pool, till in pairs(earlier.closed) do
        state.closed[pool] = math.max(till + shift, state.closed[pool] or -INF)
    end
    add_lives(earlier)
end

local function settles_in()
    local wait = state.settling and state.settling['until'] - now or 0
    if wait <= 0 then state.settling = nil end
    return math.max(0, wait)
end

-- what goes in and out -----------------------------------------------------------------------------------------------

local function text(number) return string.format('%.17g', number) end

local function pairs_of(amounts)
    local flat = {}
    for key, amount in pairs(amounts) do
        flat[#flat + 1] = key
        flat[#flat + 1] = text(amount)
    end
    return flat
end

local function closed_for(pool)
    return math.max(0, (state.closed[pool] or now) - now)
end

local function left_of(meters)
    local left = {}
    for _, meter in ipairs(meters) do
        left[meter.key] = gauge_left(state.gauges[meter.key]) - held_of(meter.key)
    end
    return left
end

local DO = {}

function DO.lease(claim)
    for _, meter in ipairs(claim.meters) do use_gauge(meter) end
    local tenant = state.tenants[claim.owner]
    if not tenant then
        tenant = {['until'] = now, serial = 0, held = {}, served = {}, demands = {}}
        state.tenants[claim.owner] = tenant
    end
    settle(tenant, claim)
    if claim.leaving then
        state.tenants[claim.owner] = nil
        return {{}, '0', {}, '0', pairs_of(left_of(claim.meters)), 0, {}}
    end
    tenant['until'] = now + claim.ttl
    owners = 0
    for _ in pairs(state.tenants) do owners = owners + 1 end
    local closed = 0
    for _, meter in ipairs(claim.meters) do
        if (claim.want[meter.key] or 0) > 0 or (claim.least[meter.key] or 0) > 0 then
            closed = math.max(closed, closed_for(meter.pool))
        end
    end
    local granted, retry_after, held_up, rivals = {}, closed, {}, 0
    if closed <= 0 then granted, retry_after, held_up, rivals = grant(tenant, claim) end
    local excess, left = pairs_of(excess_of(tenant)), pairs_of(left_of(claim.meters))
    return {pairs_of(granted), text(retry_after), held_up, text(closed), left, rivals, excess}
end

function DO.correct(correction)
    if settles_in() > 0 then return {0} end
    local gauge = use_gauge(correction.meter)
    return {correct(gauge, correction.at_least, correction.at_most, now - correction.ago) and 1 or 0}
end

function DO.close(closing)
    local till = now + closing.seconds
    if closing.replace or till > (state.closed[closing.pool] or -INF) then state.closed[closing.pool] = till end
    return {text(closed_for(closing.pool))}
end

function DO.look()
    local left, held, closed = {}, {}, {}
    for key, gauge in pairs(state.gauges) do left[key] = gauge_left(gauge) - held_of(key) end
    for name, tenant in pairs(state.tenants) do
        held[#held + 1] = name
        held[#held + 1] = pairs_of(tenant.held)
    end
    for pool in pairs(state.closed) do closed[pool] = closed_for(pool) end
    return {pairs_of(left), held, pairs_of(closed)}
end

local function keep()
    local life = 1
    for key, gauge in pairs(state.gauges) do
        forget(gauge)
        local wanted, idle = false, as_new_in(gauge)
        for _, tenant in pairs(state.tenants) do wanted = wanted or tenant.held[key] or tenant.served[key] end
        life = math.max(life, idle + 1)
        if idle <= 0 and (gauge.told or -INF) < now - gauge.period and not wanted then state.gauges[key] = nil end
    end
    for _, tenant in pairs(state.tenants) do life = math.max(life, tenant['until'] - now + 1) end
    for pool in pairs(state.closed) do life = math.max(life, closed_for(pool) + 1) end
    if state.settling then life = math.max(life, state.settling['until'] - now + 1) end
    -- Whoever is told that this matters for so long must find it here for so long, whatever becomes of it meanwhile.
    state.promised = math.max(state.promised, now + life)
    state.written = state.written + 1
    local packed = cmsgpack.pack(state)
    local stays = math.min(state.promised - now + ROUND_TRIP, 1e9)
    redis.call('SET', KEYS[1], packed, 'PX', string.format('%.0f', stays * 1000))
    return packed, life
end

local stored = redis.call('GET', KEYS[1])
if stored then
    state = cmsgpack.unpack(stored)
else
    state = {
        epoch = request.new_epoch, past = {}, written = 0, promised = 0, offset = 0, closed = {}, gauges = {},
        tenants = {},
    }
end
local lacking = lacks(request.epoch, request.written)
if lacking and ARGV[2] == '' then return {'lost'} end
tick()
if lacking then take_up(cmsgpack.unpack(ARGV[2]), request.elapsed) end
local wait = request.verb == 'lease' and settles_in() or 0
local status, result = 'settles', text(wait)
if wait == 0 then status, result = 'ok', DO[request.verb](request[request.verb]) end
if request.verb == 'look' then return {status, result} end
local packed, life = keep()
local along = (request.remember or #packed <= SMALL) and packed or ''
return {status, result, state.epoch, text(state.written), text(life), along}
