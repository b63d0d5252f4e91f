/*
 * Copyright (C) clawd authors
 *
 * What the scripts of the store in Redis reach alone: reserves that have the
 * settlement of the one before with them, on one connection, which is what a
 * gateway with one worker has.
 *
 *     pairs SOCKET CLIENTS SECONDS USERS
 *
 * Each of CLIENTS has one command under way, as a connection to the gateway
 * has.  A few commands go out in one write, so that Redis always has some to
 * go on with.  Prints its figures as JSON.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <hiredis/hiredis.h>

#include "ngx_http_clawd_scripts.h"


#define CLIENTS_MAX  1024
#define WRITE        8        /* commands */
#define LIMIT        "1000000000000"
#define ESTIMATE     "1500"
#define ESTIMATED    1500
#define ACTUAL       230


typedef struct {
    int        rides;         /* 1: a settlement goes with the question */
    long long  user;
    char       rid[33];
    char       window[3][24];
} client_t;


static redisContext  *redis;
static char           run_id[41];
static char           sha[NGX_HTTP_CLAWD_SCRIPTS][41];
static long long      users, now_us, requests, newest;
static uint64_t       count;


static void
die(const char *what)
{
    fprintf(stderr, "pairs: %s: %s\n", what, redis ? redis->errstr : "");
    exit(1);
}


static double
seconds(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec + ts.tv_nsec / 1e9;
}


static void
load_scripts(void)
{
    int          i;
    char        *p;
    redisReply  *reply;

    for (i = 0; i < NGX_HTTP_CLAWD_SCRIPTS; i++) {
        reply = redisCommand(redis, "SCRIPT LOAD %b",
                             ngx_http_clawd_scripts[i].data,
                             ngx_http_clawd_scripts[i].len);

        if (reply == NULL || reply->type != REDIS_REPLY_STRING) {
            die("a script can't be loaded");
        }

        memcpy(sha[i], reply->str, 40);
        freeReplyObject(reply);
    }

    reply = redisCommand(redis, "INFO server");
    if (reply == NULL || reply->type != REDIS_REPLY_STRING) {
        die("INFO");
    }

    p = strstr(reply->str, "run_id:");
    if (p == NULL) {
        die("no run id");
    }

    memcpy(run_id, p + 7, 40);
    freeReplyObject(reply);
}


/* args ends with NULL */

static void
eval(client_t *c, int script, const char **args)
{
    int          n;
    char         keys[3][64];
    const char  *argv[32];

    static char  kinds[] = { 'u', 'f', 'o' };

    argv[0] = "EVALSHA";
    argv[1] = sha[script];
    argv[2] = "3";

    for (n = 0; n < 3; n++) {
        snprintf(keys[n], sizeof(keys[n]), "clawd:{pair%lld}:%c:pair%lld",
                 c->user, kinds[n], c->user);
        argv[3 + n] = keys[n];
    }

    for (n = 6; *args; n++) {
        argv[n] = *args++;
    }

    if (redisAppendCommandArgv(redis, n, argv, NULL) != REDIS_OK) {
        die("a command can't be sent");
    }
}


/* the reservation before this one is settled along with it */

static void
reserve(client_t *c)
{
    char         deadline[24], n[24], settled[33], delta[24];
    const char  *args[] = { c->rid, ESTIMATE, "90000", deadline, LIMIT, LIMIT,
                            LIMIT, LIMIT, LIMIT, "0", "0", run_id, n, "0",
                            settled, delta, c->window[0], c->window[1],
                            c->window[2], LIMIT, NULL };

    if (c->rid[0]) {
        memcpy(settled, c->rid, sizeof(settled));
        snprintf(delta, sizeof(delta), "%d", ACTUAL - ESTIMATED);

    } else {
        args[14] = NULL;
    }

    snprintf(c->rid, sizeof(c->rid), "%032" PRIx64, ++count);
    snprintf(deadline, sizeof(deadline), "%lld", now_us ? now_us + 5000000 : 0);
    snprintf(n, sizeof(n), "%lld", users == 1 ? newest : 0);

    eval(c, NGX_HTTP_CLAWD_SCRIPT_RESERVE, args);
}


static void
answer(client_t *c, redisReply *reply)
{
    int                   i;
    struct redisReply   **usage;

    static int            where[] = { 4, 7, 9 };   /* minute, day, month */

    if (reply->type != REDIS_REPLY_ARRAY
        || reply->elements != NGX_HTTP_CLAWD_RESERVE_N
        || reply->element[NGX_HTTP_CLAWD_RESERVE_STATUS]->integer != 1
        || reply->element[NGX_HTTP_CLAWD_RESERVE_SETTLED]->integer != c->rides)
    {
        fprintf(stderr, "pairs: %s\n", reply->type == REDIS_REPLY_ERROR
                ? reply->str : "a request was not admitted, or not settled");
        exit(1);
    }

    usage = reply->element + NGX_HTTP_CLAWD_RESERVE_USAGE;

    for (i = 0; i < 3; i++) {
        snprintf(c->window[i], sizeof(c->window[i]), "%lld",
                 usage[where[i]]->integer);
    }

    requests++;

    now_us = reply->element[NGX_HTTP_CLAWD_RESERVE_NOW]->integer;
    newest = usage[1]->integer;

    c->rides = 1;
    reserve(c);
}


int
main(int argc, char **argv)
{
    int          i, n, done;
    double       start, end;
    redisReply  *reply;

    static client_t  clients[CLIENTS_MAX];

    n = argc == 5 ? atoi(argv[2]) : 0;

    if (n < 1 || n > CLIENTS_MAX || atoll(argv[4]) < 1) {
        fprintf(stderr, "pairs: wrong arguments, see its source\n");
        return 2;
    }

    users = atoll(argv[4]);
    redis = redisConnectUnix(argv[1]);

    if (redis == NULL || redis->err) {
        die("Redis does not answer");
    }

    load_scripts();

    start = seconds();
    end = start + atof(argv[3]);

    /* rids of other runs may still be there: these begin at the time */

    count = (uint64_t) time(NULL) << 24;

    for (i = 0; i < n; i++) {
        clients[i].user = i % users;
        reserve(&clients[i]);
    }

    /* answers come in the order of the commands */

    for (i = 0; seconds() < end; i = (i + 1) % n) {
        if (redisGetReply(redis, (void **) &reply) != REDIS_OK) {
            die("Redis does not answer");
        }

        answer(&clients[i], reply);
        freeReplyObject(reply);

        if (requests % WRITE == 0
            && redisBufferWrite(redis, &done) != REDIS_OK)
        {
            die("a command can't be sent");
        }
    }

    printf("{\"requests\": %lld, \"errors\": 0, \"seconds\": %.3f}\n",
           requests, seconds() - start);

    return 0;
}
