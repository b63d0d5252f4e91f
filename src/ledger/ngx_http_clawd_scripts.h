/*
 * Copyright (C) clawd authors
 *
 * The scripts of the store in Redis.  All of them are atomic, declare their
 * keys (of one slot), take the time from Redis alone, and return integers.
 */

#ifndef _NGX_HTTP_CLAWD_SCRIPTS_H_INCLUDED_
#define _NGX_HTTP_CLAWD_SCRIPTS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


/*
 * KEYS of all: the user's state (hash), reservations in flight (zset, score:
 * expiry in ms) and orphans (zset, score: when they became so, ms).
 *
 *     clawd:{USER}:u:USER  clawd:{USER}:f:USER  clawd:{USER}:o:USER
 *
 * RESERVE  ARGV rid est ttl_ms deadline_us concurrency rpm tpm day month
 *               offset_s epoch run n live
 *          [guard: request_tat token_tat minute minute_requests minute_tokens
 *                  day day_tokens month month_tokens]
 *          or [rid delta minute day month tpm] …, RIDERS_MAX at most
 *
 *     limits: -1 is none.  est -1 only looks: nothing is written.  run is the
 *     server's run id, or empty if it isn't known; n the newest operation
 *     number that the gateway has seen of this user and epoch (0: none), live
 *     how many of the user's requests it holds itself.  A deadline of 0: none.
 *     The guard is the usage that came in the same reply as n.
 *     Each six more are a settlement that rides along, of the same epoch and
 *     offset, delta being actual less est; they are made before est is judged.
 *
 *     returns { status, limit, now_us, live, epoch, n, request_tat, token_tat,
 *               minute, minute_requests, minute_tokens, day, day_tokens,
 *               month, month_tokens, settled }
 *
 *     settled: bit i is 1 if the i-th rider has been settled; those that have
 *     not are for SETTLE.
 *     status: 1 admitted, live counts it; 0 denied, limit (as
 *     ngx_http_clawd_limit_e) in the way; 2 this rid is in flight already,
 *     nothing changed; 3 the deadline had passed; 4 the server lacks operations
 *     that the gateway knows of, and no guard was given: nothing changed, call
 *     again with it; 5 the server has lost operations lately, and nothing is
 *     admitted until all gateways have had the time to tell theirs.
 *
 *     Numbers of operations grow by 1, but the first one of a state is the
 *     server's time in microseconds.  A reply of status 3 or 4, or any other
 *     whose n is below the gateway's, is not news of the user.
 *
 * SETTLE   ARGV rid est actual minute day month epoch tpm offset_s offline
 *          [run n]
 *
 *     offline 1: Redis has not seen the reservation: all of actual is charged,
 *     once, to those of the windows that are not over.  run as above: without
 *     it, a charge that comes first after Redis has lost data may be lost, too.
 *     n is the newest operation number that the gateway has seen of this user,
 *     of any epoch: the reply's is 0 where the server lacks operations that the
 *     gateway knows of, since what it counts then is not news of the user.
 *     Without n, no reply of SETTLE is.
 *
 *     returns { status, epoch, n, … month_tokens } as above; status: 1 settled,
 *     2 settled late (it had been an orphan), 0 nothing to settle, or not any
 *     more.
 *
 * BEAT     ARGV ttl_ms deadline_us rid …
 *
 *     Keeps reservations alive, puts back those that were moved to the orphans,
 *     and those that the server has lost.  returns { number of the lost ones },
 *     or { -1 } when the deadline had passed.
 *
 * Commands that are called: TIME HMGET HSET EXPIRE ZSCORE ZCARD ZRANGEBYSCORE
 * ZADD ZREM ZREMRANGEBYSCORE.
 */

typedef enum {
    NGX_HTTP_CLAWD_SCRIPT_RESERVE = 0,
    NGX_HTTP_CLAWD_SCRIPT_SETTLE,
    NGX_HTTP_CLAWD_SCRIPT_BEAT,
    NGX_HTTP_CLAWD_SCRIPTS
} ngx_http_clawd_script_e;


#define NGX_HTTP_CLAWD_RESERVE_STATUS     0
#define NGX_HTTP_CLAWD_RESERVE_LIMIT      1
#define NGX_HTTP_CLAWD_RESERVE_NOW        2
#define NGX_HTTP_CLAWD_RESERVE_LIVE       3
#define NGX_HTTP_CLAWD_RESERVE_USAGE      4   /* 11 numbers, as in
                                                 ngx_http_clawd_usage_t */
#define NGX_HTTP_CLAWD_RESERVE_SETTLED    15
#define NGX_HTTP_CLAWD_RESERVE_N          16

#define NGX_HTTP_CLAWD_RIDERS_MAX         8

#define NGX_HTTP_CLAWD_SETTLE_STATUS      0
#define NGX_HTTP_CLAWD_SETTLE_USAGE       1   /* 11 numbers; epoch first */
#define NGX_HTTP_CLAWD_SETTLE_N           12


extern ngx_str_t  ngx_http_clawd_scripts[NGX_HTTP_CLAWD_SCRIPTS];


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_SCRIPTS_H_INCLUDED_ */
