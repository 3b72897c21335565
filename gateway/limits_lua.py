"""The Lua scripts of limits in Redis or Valkey (5.0 or newer): each is one atomic step on the server, by its clock.

A tenant has two keys in one hash slot. `state` is a hash: the request window (rs, ru), the token window (ts, tu), the
day's money (day, spent, held), and one field `l:<id>` for each open reservation, "<ms> <tokens> <microusd>". `slots` is
a sorted set of the same ids by the time their lease ends. Times are milliseconds since the epoch, money micro-dollars.

Numbers come back as one string: a client parses that faster than an array of replies.
"""

from __future__ import annotations

# Reads the state. A key of another type, or a field that is no count, was not written by us: it is dropped (`healed`),
# and the day's money comes back from what the caller last saw (its floor, which can only be too low, never too high).
_READ = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local today = math.floor(time[1] / 86400)
local state, slots = KEYS[1], KEYS[2]
local healed = 0
local function heal()
  redis.call('DEL', state, slots)
  healed = 1
end
local function kind(key) return redis.call('TYPE', key)['ok'] end
local is_state, is_slots = kind(state), kind(slots)
if (is_state ~= 'hash' and is_state ~= 'none') or (is_slots ~= 'zset' and is_slots ~= 'none') then heal() end
local count = {0, 0, 0, 0, 0, 0, 0}
local found = redis.call('HMGET', state, 'rs', 'ru', 'ts', 'tu', 'day', 'spent', 'held')
for i = 1, 7 do
  if found[i] then
    local n = tonumber(found[i])
    if not n or n < 0 or n ~= math.floor(n) or n > 9007199254740992 then
      heal()
      count = {0, 0, 0, 0, 0, 0, 0}
      break
    end
    count[i] = n
  end
end
local rs, ru, ts, tu, day, spent, held = unpack(count)
local floor_day, floor_spent, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- A clock set back by a little over midnight must not empty the day.
if today > day or today < day - 1 then day, spent = today, 0 end
if floor_day == day and floor_spent > spent then spent = floor_spent end
-- A window that begins in the future was written before the clock was set back.
local function over(start) return now >= start + window or start > now + 1000 end
local function write()
  redis.call('HSET', state, 'rs', rs, 'ru', ru, 'ts', ts, 'tu', tu, 'day', day, 'spent', spent, 'held', held)
  redis.call('PEXPIRE', state, 172800000)
end
local function say(...) return table.concat({...}, ' ') end
local function whole(n) return string.format('%.0f', n) end
"""

# ARGV: floor day, floor spent, window ms, id, tokens, microusd, requests limit, tokens limit, budget, slots limit,
# lease ms; a limit of -1 is none. Says: id, verdict (0 admitted, 1 money, 2 requests, 3 tokens, 4 concurrency),
# requests used and ms left of their window, tokens used and ms left, spent, held, live, day, ms to midnight, healed.
_RESERVE = """
local id, tokens, microusd = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local rpm, tpm, budget, places = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local lease = tonumber(ARGV[11])
-- Whoever held these is gone: the slot is free, the money may have been spent and stays counted.
local dead = redis.call('ZRANGEBYSCORE', slots, '-inf', now, 'LIMIT', 0, 100)
for _, gone in ipairs(dead) do
  local record = redis.call('HGET', state, 'l:' .. gone)
  local money = record and tonumber(string.match(record, ' (%d+)$'))
  if money then
    held = math.max(0, held - money)
    spent = spent + money
  end
  redis.call('HDEL', state, 'l:' .. gone)
  redis.call('ZREM', slots, gone)
end
local live = redis.call('ZCOUNT', slots, '(' .. whole(now), '+inf')
if over(rs) then rs, ru = now, 0 end
if over(ts) then ts, tu = now, 0 end
local verdict = 0
if budget >= 0 and spent + held + microusd > budget then verdict = 1
elseif rpm >= 0 and ru >= rpm then verdict = 2
elseif tpm >= 0 and tu + tokens > tpm then verdict = 3
elseif places >= 0 and live >= places then verdict = 4 end
if verdict == 0 then
  ru, tu, held, live = ru + 1, tu + tokens, held + microusd, live + 1
  redis.call('HSET', state, 'l:' .. id, whole(now) .. ' ' .. ARGV[5] .. ' ' .. ARGV[6])
  redis.call('ZADD', slots, now + lease, id)
  redis.call('PEXPIRE', slots, lease * 2)
end
if verdict == 0 or #dead > 0 then write() end
local midnight = (today + 1) * 86400000 - now
return say(id, verdict, whole(ru), whole(rs + window - now), whole(tu), whole(ts + window - now), whole(spent),
  whole(held), whole(live), whole(day), whole(midnight), healed)
"""

# ARGV: floor day, floor spent, window ms, id, tokens, microusd, void. A void takes the request back as well. The
# record is removed with the first settle, so a second one finds nothing to do.
_SETTLE = """
local id, tokens, microusd = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local record = redis.call('HGET', state, 'l:' .. id)
if not record then return say(id, 0, healed) end
redis.call('HDEL', state, 'l:' .. id)
redis.call('ZREM', slots, id)
local at, reserved, money = string.match(record, '^(%d+) (%d+) (%d+)$')
if not at then return say(id, 0, healed) end
at = tonumber(at)
held = math.max(0, held - tonumber(money))
spent = spent + microusd
local more = tokens - tonumber(reserved)
if not over(ts) then
  if more > 0 or at >= ts then tu = math.max(0, tu + more) end
elseif more > 0 then ts, tu = now, more end
if ARGV[7] == '1' and not over(rs) and at >= rs then ru = math.max(0, ru - 1) end
write()
return say(id, 1, healed)
"""

# ARGV: floor day, floor spent, window ms, id, microusd: money that was spent while the store was away.
_SPEND = """
spent = spent + tonumber(ARGV[5])
write()
return say(ARGV[4], 1, healed)
"""

# ARGV: floor day, floor spent, window ms, lease ms, ids. Only leases that are still there: one that was settled in the
# meantime must not come back.
_RENEW = """
local lease = tonumber(ARGV[4])
for i = 5, #ARGV do redis.call('ZADD', slots, 'XX', now + lease, ARGV[i]) end
redis.call('PEXPIRE', slots, lease * 2)
redis.call('PEXPIRE', state, 172800000)
return say('renew', 1, healed)
"""

SCRIPTS = {
    "reserve": _READ + _RESERVE,
    "settle": _READ + _SETTLE,
    "spend": _READ + _SPEND,
    "renew": _READ + _RENEW,
}
