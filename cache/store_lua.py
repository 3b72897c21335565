"""The Lua scripts of the cache in Redis 6.2 or newer, or Valkey: each is one atomic step on the server, by its clock.

An owner's keys share one hash tag. `e:<id>` is a string, a sealed entry, and expires by itself. `book` is a hash with
one row for each entry, "<size> <worth> <uses> <last use> <due> <stream id> <labels>", and `bytes`, the sum of the
sizes. **An entry that has no row is not there**, so whatever the server evicts by itself, bounds and deletions hold.
`b:<id>` bars an id, `t:<name>` is a row of counters. `d` is a list of the last deletions, the newest first, each
"<mark> <labels>" with marks that grow: an answer that began before one of them is refused when it comes. One stream for
the whole server tells all replicas what changed. Times are milliseconds since the epoch.

A book of another type, or a row that is none, was not written by us: it is dropped and counted as foreign.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .deletions import KNOWN

_MOST = f"local most_known = {KNOWN}\n"

# KEYS: book, stream. ARGV: owner, most records in the stream, then each script's own.
_BOOK = """
local book, stream, owner = KEYS[1], KEYS[2], ARGV[1]
local stem = string.sub(book, 1, -5)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local foreign, gone = 0, {}
local function kind(key) return redis.call('TYPE', key)['ok'] end
if kind(book) ~= 'hash' and kind(book) ~= 'none' then redis.call('DEL', book) foreign = 1 end
if kind(stream) ~= 'stream' and kind(stream) ~= 'none' then redis.call('DEL', stream) foreign = foreign + 1 end
local function announce(...)
  return redis.call('XADD', stream, 'MAXLEN', '~', ARGV[2], '*', 'o', owner, 'w', ...)
end
local function parse(text)
  local size, worth, uses, last, due, notice, labels =
    string.match(text, '^(%d+) (%d+) ([%d.]+) (%d+) (%d+) ([%d-]+)(.*)$')
  uses = tonumber(uses)
  if not uses then return nil end
  return {size = tonumber(size), worth = tonumber(worth), uses = uses, last = tonumber(last), due = tonumber(due),
          notice = notice, labels = labels .. ' '}
end
local function recount()
  local sum, flat = 0, redis.call('HGETALL', book)
  for i = 1, #flat, 2 do
    local row = flat[i] ~= 'bytes' and parse(flat[i + 1])
    if row then sum = sum + row.size end
  end
  return sum
end
local bytes = tonumber(redis.call('HGET', book, 'bytes') or nil)
if not bytes or bytes ~= bytes or bytes < 0 then bytes = recount() end
local function decayed(row) return row.uses * math.pow(0.5, math.max(0, now - row.last) / 3600000) end
local function remove(id, row, quietly)
  redis.call('HDEL', book, id)
  redis.call('DEL', stem .. 'e:' .. id)
  if not row then foreign = foreign + 1 return end
  bytes = math.max(0, bytes - row.size)
  if row.notice ~= '-' then
    redis.pcall('XDEL', stream, row.notice)
    if not quietly then gone[#gone + 1] = id end
  end
end
local function close()
  if redis.call('HLEN', book) == redis.call('HEXISTS', book, 'bytes') then redis.call('DEL', book)
  else redis.call('HSET', book, 'bytes', string.format('%.0f', bytes)) end
  if #gone > 0 then announce('gone', 'i', table.concat(gone, ' ')) end
end
"""

# ARGV: id, sealed entry, ms to live, size, worth, limit, labels, sealed notice or '', where deletions stood when it
# began or '', the label of its id. Says: refused, evicted, expired, foreign. Each round looks at a few
# rows, lets the expired go, and then the least valuable if it still does not fit.
_PUT = """
local id, ttl, size, limit = ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[8])
local function late(mark)
  local known = redis.pcall('LRANGE', stem .. 'd', 0, -1)
  if known['err'] then return true end
  local mine = ARGV[9] .. ' ' .. ARGV[12] .. ' '
  for _, text in ipairs(known) do
    local at, labels = string.match(text, '^(%d+)(.*)$')
    if not at then return true end
    if tonumber(at) <= mark then return false end
    local meant = true
    for label in string.gmatch(labels, '%S+') do
      meant = meant and string.find(mine, ' ' .. label .. ' ', 1, true)
    end
    if meant then return true end
  end
  return #known >= most_known or (#known == 0 and mark > 0)  -- others are forgotten, and nobody knows what they meant
end
if ARGV[11] ~= '' and late(tonumber(ARGV[11])) then return {1, 0, 0, foreign} end
redis.call('HSET', book, 'bytes', string.format('%.0f', bytes))  -- a full server refuses here, before anything is done
local refused, evicted, expired, uses, last = 0, 0, 0, 0, now
local old = redis.call('HGET', book, id)
if old then
  old = parse(old)
  if old then uses, last = old.uses, old.last end
  remove(id, old, true)
end
for round = 1, 500 do
  local flat, worst, worst_row, lowest = redis.call('HRANDFIELD', book, 8, 'WITHVALUES'), nil, nil, nil
  for i = 1, #flat, 2 do
    if flat[i] ~= 'bytes' then
      local row = parse(flat[i + 1])
      if not row then remove(flat[i], nil)
      elseif row.due <= now then
        remove(flat[i], row)
        expired = expired + 1
      else
        local value = row.worth * (1 + decayed(row)) / row.size
        if not lowest or value < lowest then worst, worst_row, lowest = flat[i], row, value end
      end
    end
  end
  if #flat <= 2 and not worst then bytes = 0 end
  if bytes + size <= limit then break end
  if worst then
    remove(worst, worst_row)
    evicted = evicted + 1
  end
end
if bytes + size > limit then refused = 1 else
  redis.call('SET', stem .. 'e:' .. id, ARGV[4], 'PX', ttl)
  local notice = '-'
  if ARGV[10] ~= '' and redis.call('EXISTS', stem .. 'b:' .. id) == 0 then
    notice = announce('put', 'e', ARGV[10])
  end
  local row = string.format('%d %d %.4f %.0f %.0f %s%s', size, ARGV[7], uses, last, now + ttl, notice, ARGV[9])
  redis.call('HSET', book, id, row)
  bytes = bytes + size
end
close()
if redis.call('PTTL', book) < ttl + 60000 then redis.call('PEXPIRE', book, ttl + 60000) end
return {refused, evicted, expired, foreign}
"""

# ARGV: id.
_USED = """
local id = ARGV[3]
local row = parse(redis.call('HGET', book, id) or '')
if row then
  local text = string.format('%d %d %.4f %.0f %.0f %s%s', row.size, row.worth, decayed(row) + 1, now, row.due,
                             row.notice, string.sub(row.labels, 1, -2))
  redis.call('HSET', book, id, text)
end
return {0, 0, 0, foreign}
"""

# ARGV: labels. Says its mark. By the clock, so that no mark comes again when the list was lost.
_DELETION = """
local list = stem .. 'd'
if kind(list) ~= 'list' and kind(list) ~= 'none' then redis.call('DEL', list) end
local last = string.match(redis.call('LINDEX', list, 0) or '', '^%d+') or 0
local mark = string.format('%.0f', math.max(time[1] * 1000000 + time[2], last + 1))
redis.call('LPUSH', list, table.concat({mark, unpack(ARGV, 3)}, ' '))
redis.call('LTRIM', list, 0, most_known - 1)
redis.call('PEXPIRE', list, 604800000)
announce('deleted', 'm', mark)
return mark
"""

# ARGV: cursor, id or '', labels that a row must have. Says: next cursor, how many went.
_DELETE = """
local cursor, count = '0', 0
local function try(id, text)
  local row = parse(text)
  for i = 5, #ARGV do
    if row and not string.find(row.labels, ' ' .. ARGV[i] .. ' ', 1, true) then return end
  end
  remove(id, row)
  count = count + 1
end
if ARGV[4] ~= '' then
  local text = redis.call('HGET', book, ARGV[4])
  if text then try(ARGV[4], text) end
else
  local page = redis.call('HSCAN', book, ARGV[3], 'COUNT', 200)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    if page[2][i] ~= 'bytes' and redis.call('HEXISTS', book, page[2][i]) == 1 then try(page[2][i], page[2][i + 1]) end
  end
end
close()
return {cursor, count}
"""

# ARGV: id, ms.
_BAR = """
redis.call('SET', stem .. 'b:' .. ARGV[3], '1', 'PX', ARGV[4])
local text = redis.call('HGET', book, ARGV[3])
if text then remove(ARGV[3], parse(text), true) end
close()
announce('barred', 'i', ARGV[3])
return 1
"""

# ARGV: 1 if what is barred is left out, ids. Says the mark of the last deletion, and for each id: its bytes, nil, or ''
# where something else stands. It writes nothing, so a replica can answer it.
_READ = """
local book, stem = KEYS[1], string.sub(KEYS[1], 1, -5)
local last = redis.pcall('LINDEX', stem .. 'd', 0)
local out = {type(last) == 'string' and string.match(last, '^%d+') or '0'}
for i = 4, #ARGV do
  local id, found = ARGV[i], false
  local row = redis.pcall('HEXISTS', book, id)
  if type(row) == 'table' then found = ''
  elseif row == 1 and (ARGV[3] == '0' or redis.call('EXISTS', stem .. 'b:' .. id) == 0) then
    found = redis.pcall('GET', stem .. 'e:' .. id)
    if type(found) == 'table' then found = '' end
  end
  out[#out + 1] = found
end
return out
"""

# Says: entries, bytes.
_HELD = """
local entries = redis.pcall('HLEN', KEYS[1])
if type(entries) == 'table' or entries == 0 then return {0, '0'} end
return {entries - 1, redis.call('HGET', KEYS[1], 'bytes') or '0'}
"""

# ARGV: name, then field and amount in turn. What is no row of counters, or no number in it, begins again.
_TALLY = """
local row = string.sub(KEYS[1], 1, -5) .. 't:' .. ARGV[3]
for i = 4, #ARGV, 2 do
  local done = redis.pcall('HINCRBYFLOAT', row, ARGV[i], ARGV[i + 1])
  if type(done) == 'table' then
    if redis.call('TYPE', row)['ok'] ~= 'hash' then redis.call('DEL', row)
    else redis.call('HDEL', row, ARGV[i]) end
    redis.call('HINCRBYFLOAT', row, ARGV[i], ARGV[i + 1])
  end
end
return 1
"""

SCRIPTS: Final[Mapping[str, str]] = {
    "put": _MOST + _BOOK + _PUT,
    "used": _BOOK + _USED,
    "deletion": _MOST + _BOOK + _DELETION,
    "drop": _BOOK + _DELETE,
    "bar": _BOOK + _BAR,
    "read": _READ,
    "held": _HELD,
    "tally": _TALLY,
}
