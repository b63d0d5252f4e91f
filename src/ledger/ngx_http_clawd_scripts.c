/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_scripts.h"


/*
 * All numbers are integers up to 2^53, which Redis writes in full when a script
 * hands them to a command, and truncates to integers in a reply.
 *
 * Fields of a user's state:
 *
 *     ep n rt tt mi mr mt dw du mw mu   the usage, as in a reply
 *     rn                                run id of the server that wrote
 *     sn                                first n of this lineage
 *     bs                                its base: n:mi:mr:mt:dw:du:mw:mu
 *     ls                                when the first loss of it was noticed
 *
 * A lineage is a chain of operations none of which got lost.  A new one starts
 * where the hash is missing, was written under another run id, or is behind
 * what a gateway knows.  Its n starts at the server's time in microseconds,
 * hence beyond all that was given out before, and from then on counts up by 1.
 * A gateway whose n is below sn, but above that of the base, knows of
 * operations that were lost: its counts replace the base's, and what was
 * charged since stays on top, so that gateways which come one after another
 * add up.  After the first of them nothing is admitted for a while: others may
 * know more, and the server does not know what they have in flight.
 *
 * After this part: time is taken, the state is read and rolled.  What is to be
 * written beyond counts sets full; dirty: even if nothing is admitted.
 */

#define NGX_HTTP_CLAWD_LUA_OPEN                                               \
    "local call, floor = redis.call, math.floor\n"                            \
    "local max, min, tonumber = math.max, math.min, tonumber\n"               \
    "local U, F, O = KEYS[1], KEYS[2], KEYS[3]\n"                             \
    "local MAX = 9007199254740992\n"                                          \
    "local time = call('TIME')\n"                                             \
    "local sec = tonumber(time[1])\n"                                         \
    "local now = sec * 1000000 + time[2]\n"                                   \
    "local ms = floor(now / 1000)\n"                                          \
    "local h = call('HMGET', U, 'ep', 'n', 'rt', 'tt', 'mi', 'mr', 'mt',\n"   \
    "    'dw', 'du', 'mw', 'mu', 'rn', 'sn', 'bs', 'ls')\n"                   \
    "local ep, n = tonumber(h[1]), tonumber(h[2]) or 0\n"                     \
    "local rt, tt = tonumber(h[3]) or 0, tonumber(h[4]) or 0\n"               \
    "local mi = tonumber(h[5]) or 0\n"                                        \
    "local mr, mt = tonumber(h[6]) or 0, tonumber(h[7]) or 0\n"               \
    "local dw, du = tonumber(h[8]) or 0, tonumber(h[9]) or 0\n"               \
    "local mw, mu = tonumber(h[10]) or 0, tonumber(h[11]) or 0\n"             \
    "local rn, sn, bs = h[12] or '', tonumber(h[13]) or 0, h[14] or ''\n"     \
    "local ls = tonumber(h[15]) or 0\n"                                       \
    "local seen = n\n"                                                        \
    "local start = not ep or run ~= '' and run ~= rn\n"                       \
    "local raised = not ep or epoch > ep\n"                                   \
    "local dirty = start or raised\n"                                         \
    "local full = dirty\n"                                                    \
                                                                              \
    "local function lacks(gn)\n"                                              \
    "  return (start or gn < sn)\n"                                           \
    "      and gn > (tonumber(string.match(bs, '^%d+')) or 0)\n"              \
    "end\n"                                                                   \
                                                                              \
    "local function base(...)\n"                                              \
    "  return string.format('%.0f:%.0f:%.0f:%.0f:%.0f:%.0f:%.0f:%.0f', ...)\n"\
    "end\n"                                                                   \
                                                                              \
    "if raised then\n"                                                        \
    "  ep, rt, tt, bs = epoch, 0, 0, ''\n"                                    \
    "  mi, mr, mt, dw, du, mw, mu = 0, 0, 0, 0, 0, 0, 0\n"                    \
    "elseif start then\n"                                                     \
    "  bs = base(n, mi, mr, mt, dw, du, mw, mu)\n"                            \
    "end\n"                                                                   \
    "if start then\n"                                                         \
    "  n = max(n, now)\n"                                                     \
    "  sn, rn = n, run\n"                                                     \
    "end\n"                                                                   \
                                                                              \
    "local id = floor(sec / 60)\n"                                            \
    "if id > mi then mi, mr, mt, full = id, 0, 0, true end\n"                 \
    "id = floor((sec + offset) / 86400)\n"                                    \
    "if id > dw then\n"                                                       \
    "  dw, du, full = id, 0, true\n"                                          \
    "  local z = id + 719468\n"                                               \
    "  local c = floor((4 * z + 3) / 146097)\n"                               \
    "  z = z - floor(146097 * c / 4)\n"                                       \
    "  local y = floor((4 * z + 3) / 1461)\n"                                 \
    "  z = z - floor(1461 * y / 4)\n"                                         \
    "  id = (100 * c + y - 1970) * 12 + floor((5 * z + 2) / 153) + 2\n"       \
    "  if id > mw then mw, mu = id, 0 end\n"                                  \
    "end\n"                                                                   \
                                                                              \
    "local function cost(q, limit)\n"                                         \
    "  local x = math.ceil(q * 60000000 / limit)\n"                           \
    "  x = max(min(x, 1e15), -1e15)\n"                                        \
    "  if q <= limit and x > 60000000 then x = 60000000 end\n"                \
    "  return x\n"                                                            \
    "end\n"                                                                   \
                                                                              \
    "local function add(count, delta)\n"                                      \
    "  return max(0, min(count + delta, MAX))\n"                              \
    "end\n"                                                                   \
                                                                              \
    "local function save()\n"                                                 \
    "  call('HSET', U, 'ep', ep, 'n', n, 'rt', rt, 'tt', tt, 'mi', mi,\n"     \
    "      'mr', mr, 'mt', mt, 'dw', dw, 'du', du, 'mw', mw, 'mu', mu,\n"     \
    "      'rn', rn, 'sn', sn, 'bs', bs, 'ls', ls)\n"                         \
    "  call('EXPIRE', U, 3024000)\n"                                          \
    "end\n"


/*
 * What the gateway knows and the server lost.  kind 1: the base is known;
 * kind 2: the state went back under the same run id, the larger count it is.
 */

#define NGX_HTTP_CLAWD_LUA_HEAL                                               \
    "local kind\n"                                                            \
    "if gn > 0 and epoch == ep then\n"                                        \
    "  if not start and gn > n then\n"                                        \
    "    kind = 2\n"                                                          \
    "  elseif lacks(gn) then\n"                                               \
    "    kind = 1\n"                                                          \
    "  end\n"                                                                 \
    "end\n"                                                                   \
                                                                              \
    "if kind then\n"                                                          \
    "  if not guarded then return reply(4, 0, seen) end\n"                    \
    "  local g = {}\n"                                                        \
    "  for i = 1, 9 do g[i] = tonumber(ARGV[14 + i]) end\n"                   \
    "  local b = { string.match(bs, '^%d+:(%d+):(%d+):(%d+):(%d+):(%d+)'\n"   \
    "      .. ':(%d+):(%d+)$') }\n"                                           \
    "  for i = 1, 7 do b[i] = tonumber(b[i]) or 0 end\n"                      \
                                                                              \
    "  local function join(id, count, gid, g, bid, b)\n"                      \
    "    if gid > id then return g, g end\n"                                  \
    "    if gid < id then return count, b end\n"                              \
    "    if kind == 2 then return max(count, g), g end\n"                     \
    "    return add(g, count - (bid == id and b or 0)), g\n"                  \
    "  end\n"                                                                 \
                                                                              \
    "  mr, b[2] = join(mi, mr, g[3], g[4], b[1], b[2])\n"                     \
    "  mt, b[3] = join(mi, mt, g[3], g[5], b[1], b[3])\n"                     \
    "  du, b[5] = join(dw, du, g[6], g[7], b[4], b[5])\n"                     \
    "  mu, b[7] = join(mw, mu, g[8], g[9], b[6], b[7])\n"                     \
    "  mi, b[1] = max(mi, g[3]), max(b[1], g[3])\n"                           \
    "  dw, b[4] = max(dw, g[6]), max(b[4], g[6])\n"                           \
    "  mw, b[6] = max(mw, g[8]), max(b[6], g[8])\n"                           \
    "  rt, tt = max(rt, g[1]), max(tt, g[2])\n"                               \
    "  bs = base(gn, b[1], b[2], b[3], b[4], b[5], b[6], b[7])\n"             \
    "  if start or kind == 2 then\n"                                          \
    "    n = max(n, gn, now)\n"                                               \
    "    sn = n\n"                                                            \
    "  end\n"                                                                 \
    "  if ls < sn then ls = now end\n"                                        \
    "  dirty, full = true, true\n"                                            \
    "end\n"


/*
 * Settlements that ride with a question, where nothing is out of the ordinary:
 * the server has all that is known, and the reservations are where they should
 * be.  A bit of settled tells of each; the rest is for SETTLE.
 */

#define NGX_HTTP_CLAWD_LUA_RIDERS                                             \
    "local settled = 0\n"                                                     \
    "if #ARGV > 14 and not (guarded or late or again or dirty or est < 0)\n"  \
    "    and epoch == ep and gn <= n and not (lacks(gn) or paused()) then\n"  \
    "  for i = 15, #ARGV, 6 do\n"                                             \
    "    if call('ZREM', F, ARGV[i]) == 1 then\n"                             \
    "      local delta = max(-MAX, min(tonumber(ARGV[i + 1]), MAX))\n"        \
    "      local limit = tonumber(ARGV[i + 5])\n"                             \
    "      if limit > 0 then tt = add(tt, cost(delta, limit)) end\n"          \
    "      if tonumber(ARGV[i + 2]) == mi then mt = add(mt, delta) end\n"     \
    "      if tonumber(ARGV[i + 3]) == dw then du = add(du, delta) end\n"     \
    "      if tonumber(ARGV[i + 4]) == mw then mu = add(mu, delta) end\n"     \
    "      n = n + 1\n"                                                       \
    "      settled = settled + 2 ^ ((i - 15) / 6)\n"                          \
    "    end\n"                                                               \
    "  end\n"                                                                 \
    "end\n"


/*
 * The first write is that of a rider, or the HSET.  A read-only server refuses
 * either, a full one the HSET: then nothing is changed.  A full one that has
 * let a rider go lets the rest of the script pass, and all of it is counted.
 * Nothing was written before all checks have passed.
 */

#define NGX_HTTP_CLAWD_LUA_RESERVE                                            \
    "local epoch, offset = tonumber(ARGV[11]), tonumber(ARGV[10])\n"          \
    "local run = ARGV[12]\n"                                                  \
    NGX_HTTP_CLAWD_LUA_OPEN                                                   \
    "local rid, est = ARGV[1], min(tonumber(ARGV[2]), MAX)\n"                 \
    "local deadline, gn = tonumber(ARGV[4]), tonumber(ARGV[13])\n"            \
    "local guarded = #ARGV == 23\n"                                           \
    "local late = deadline > 0 and now > deadline\n"                          \
    "local again = est >= 0 and call('ZSCORE', F, rid)\n"                     \
    "local function paused()\n"                                               \
    "  return now >= ls and now - ls < 2000000\n"                             \
    "end\n"                                                                   \
    NGX_HTTP_CLAWD_LUA_RIDERS                                                 \
    "local card, dead = call('ZCARD', F), {}\n"                               \
    "if card > 0 then\n"                                                      \
    "  dead = call('ZRANGEBYSCORE', F, '-inf', ms, 'LIMIT', 0, 64)\n"         \
    "end\n"                                                                   \
    "local live = max(card - #dead, tonumber(ARGV[14]))\n"                    \
                                                                              \
    "local function reply(status, limit, n)\n"                                \
    "  return { status, limit, now, live, ep, n, rt, tt, mi, mr, mt,\n"       \
    "      dw, du, mw, mu, settled }\n"                                       \
    "end\n"                                                                   \
                                                                              \
    "if late then return reply(3, 0, seen) end\n"                             \
    "if again then\n"                                                         \
    "  return reply(2, 0, (gn > n or lacks(gn)) and 0 or seen)\n"             \
    "end\n"                                                                   \
    NGX_HTTP_CLAWD_LUA_HEAL                                                   \
    "if est < 0 then return reply(1, 0, max(seen, kind and gn or 0)) end\n"   \
    "if paused() then\n"                                                      \
    "  if dirty then save() end\n"                                            \
    "  return reply(5, 0, n)\n"                                               \
    "end\n"                                                                   \
                                                                              \
    "local function write(counts)\n"                                          \
    "  if dirty or full and counts then\n"                                    \
    "    save()\n"                                                            \
    "  elseif counts then\n"                                                  \
    "    call('HSET', U, 'n', n, 'rt', rt, 'tt', tt, 'mr', mr, 'mt', mt,\n"   \
    "        'du', du, 'mu', mu)\n"                                           \
    "  end\n"                                                                 \
    "end\n"                                                                   \
                                                                              \
    "local conc, rpm = tonumber(ARGV[5]), tonumber(ARGV[6])\n"                \
    "local tpm = tonumber(ARGV[7])\n"                                         \
    "local day, month = tonumber(ARGV[8]), tonumber(ARGV[9])\n"               \
    "local nrt, ntt, limit = rt, tt, nil\n"                                   \
    "if rpm > 0 then nrt = max(rt, now) + cost(1, rpm) end\n"                 \
    "if tpm > 0 then ntt = max(tt, now) + cost(est, tpm) end\n"               \
                                                                              \
    "if conc >= 0 and live >= conc then\n"                                    \
    "  limit = 0\n"                                                           \
    "elseif rpm >= 0 and (mr + 1 > rpm or nrt - now > 60000000) then\n"       \
    "  limit = 1\n"                                                           \
    "elseif tpm == 0\n"                                                       \
    "    or tpm > 0 and (mt + est > tpm or ntt - now > 60000000) then\n"      \
    "  limit = 2\n"                                                           \
    "elseif day == 0 or day > 0 and du + est > day then\n"                    \
    "  limit = 3\n"                                                           \
    "elseif month == 0 or month > 0 and mu + est > month then\n"              \
    "  limit = 4\n"                                                           \
    "end\n"                                                                   \
                                                                              \
    "if not limit then\n"                                                     \
    "  local ttl = tonumber(ARGV[3])\n"                                       \
    "  n, rt, tt, mr, mt = n + 1, nrt, ntt, add(mr, 1), add(mt, est)\n"       \
    "  du, mu, live = add(du, est), add(mu, est), live + 1\n"                 \
    "  write(true)\n"                                                         \
    "  call('ZADD', F, ms + ttl, rid)\n"                                      \
    "  if full or card == 0 then\n"                                           \
    "    call('EXPIRE', F, floor(ttl / 1000) + 86400)\n"                      \
    "  end\n"                                                                 \
    "else\n"                                                                  \
    "  write(settled > 0)\n"                                                  \
    "end\n"                                                                   \
                                                                              \
    "if #dead > 0 then\n"                                                     \
    "  local moved = {}\n"                                                    \
    "  for i = 1, #dead do\n"                                                 \
    "    moved[2 * i - 1], moved[2 * i] = ms, dead[i]\n"                      \
    "  end\n"                                                                 \
    "  call('ZADD', O, unpack(moved))\n"                                      \
    "  call('ZREM', F, unpack(dead))\n"                                       \
    "  call('ZREMRANGEBYSCORE', O, '-inf', ms - 604800000)\n"                 \
    "  call('EXPIRE', O, 604800)\n"                                           \
    "end\n"                                                                   \
    "return reply(limit and 0 or 1, limit or 0, n)\n"


/*
 * A server without memory lets a script go on once it has removed something:
 * so what frees comes first, and settling works there, too.  An offline charge
 * leaves a mark among the orphans, of a name that is no rid, which a second one
 * of the same rid meets.
 */

#define NGX_HTTP_CLAWD_LUA_SETTLE                                             \
    "local epoch, offset = tonumber(ARGV[7]), tonumber(ARGV[9])\n"            \
    "local run = ARGV[11] or ''\n"                                            \
    NGX_HTTP_CLAWD_LUA_OPEN                                                   \
    "local rid, actual = ARGV[1], tonumber(ARGV[3])\n"                        \
    "local delta = max(-MAX, min(actual - tonumber(ARGV[2]), MAX))\n"         \
    "local minute, day = tonumber(ARGV[4]), tonumber(ARGV[5])\n"              \
    "local month, tpm = tonumber(ARGV[6]), tonumber(ARGV[8])\n"               \
    "local offline, unknown, status = ARGV[10] == '1', false, 0\n"            \
    "local gn = tonumber(ARGV[12]) or 0\n"                                    \
    "local behind = gn > n or lacks(gn)\n"                                    \
                                                                              \
    "if not offline or call('ZADD', O, 'NX', ms, 's' .. rid) == 1 then\n"     \
    "  if offline then\n"                                                     \
    "    call('ZREMRANGEBYSCORE', O, '-inf', ms - 604800000)\n"               \
    "    call('EXPIRE', O, 604800)\n"                                         \
    "  end\n"                                                                 \
    "  if call('ZREM', F, rid) == 1 then\n"                                   \
    "    status = 1\n"                                                        \
    "  elseif call('ZREM', O, rid) == 1 then\n"                               \
    "    status = 2\n"                                                        \
    "  elseif offline then\n"                                                 \
    "    status, unknown = 1, true\n"                                         \
    "  end\n"                                                                 \
    "end\n"                                                                   \
                                                                              \
    "if status > 0 then\n"                                                    \
    "  if unknown then\n"                                                     \
    "    delta, minute = min(actual, MAX), min(minute, mi)\n"                 \
    "    day, month = min(day, dw), min(month, mw)\n"                         \
    "  end\n"                                                                 \
    "  if epoch == ep then\n"                                                 \
    "    if tpm > 0 and not (unknown and minute < mi) then\n"                 \
    "      tt = add(tt, cost(delta, tpm))\n"                                  \
    "    end\n"                                                               \
    "    if minute == mi then\n"                                              \
    "      mr, mt = add(mr, unknown and 1 or 0), add(mt, delta)\n"            \
    "    end\n"                                                               \
    "    if day == dw then du = add(du, delta) end\n"                         \
    "    if month == mw then mu = add(mu, delta) end\n"                       \
    "  end\n"                                                                 \
    "  n = n + 1\n"                                                           \
    "  if full or unknown then\n"                                             \
    "    save()\n"                                                            \
    "  else\n"                                                                \
    "    call('HSET', U, 'n', n, 'tt', tt, 'mt', mt, 'du', du, 'mu', mu)\n"   \
    "  end\n"                                                                 \
    "else\n"                                                                  \
    "  n = seen\n"                                                            \
    "end\n"                                                                   \
    "if behind then n = 0 end\n"                                              \
    "return { status, ep, n, rt, tt, mi, mr, mt, dw, du, mw, mu }\n"


/* what frees comes first here as well */

#define NGX_HTTP_CLAWD_LUA_BEAT                                               \
    "local call, F, O = redis.call, KEYS[2], KEYS[3]\n"                       \
    "local time = call('TIME')\n"                                             \
    "local now = time[1] * 1000000 + time[2]\n"                               \
    "local ttl, deadline = tonumber(ARGV[1]), tonumber(ARGV[2])\n"            \
    "if deadline > 0 and now > deadline then return { -1 } end\n"             \
    "if not ARGV[3] then return { 0 } end\n"                                  \
    "local rids, scored = {}, {}\n"                                           \
    "local score = math.floor(now / 1000) + ttl\n"                            \
    "for i = 3, #ARGV do\n"                                                   \
    "  rids[i - 2] = ARGV[i]\n"                                               \
    "  scored[2 * i - 5], scored[2 * i - 4] = score, ARGV[i]\n"               \
    "end\n"                                                                   \
    "local late = call('ZREM', O, unpack(rids))\n"                            \
    "local back = call('ZADD', F, unpack(scored))\n"                          \
    "call('EXPIRE', F, math.floor(ttl / 1000) + 86400)\n"                     \
    "return { back - late }\n"


ngx_str_t  ngx_http_clawd_scripts[NGX_HTTP_CLAWD_SCRIPTS] = {
    ngx_string(NGX_HTTP_CLAWD_LUA_RESERVE),
    ngx_string(NGX_HTTP_CLAWD_LUA_SETTLE),
    ngx_string(NGX_HTTP_CLAWD_LUA_BEAT)
};
