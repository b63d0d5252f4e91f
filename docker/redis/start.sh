#!/bin/sh
#
# Writes Redis's users and becomes Redis.  Its arguments are Redis's.
#
# Passwords get there as digests: neither the file nor the process list has
# them.  The rights of the gateway are those of docs/quotas.md.

set -eu
umask 077


digest()
{
    password=$(cat "/run/secrets/$1") || password=
    if [ -z "$password" ]; then
        echo "start.sh: /run/secrets/$1 is missing or empty, or not for" \
             "user $(id -u) to read: docker/setup.sh makes it" >&2
        exit 1
    fi
    printf %s "$password" | sha256sum | cut -d ' ' -f 1
}


gateway=$(digest redis_password)
admin=$(digest redis_admin_password)

# One line each.  The default user is off, so nobody can be it, and yet has all
# rights: Redis reads its files as that user, and would leave out each
# transaction in them that it might not do, with nothing but a line in its log.
cat >/run/redis/users.acl <<END
user default reset off ~* &* +@all
user admin reset on #$admin ~* &* +@all
user clawdbot reset on #$gateway %R~clawd:key:* %R~clawd:user:* %R~clawd:plan:* ~clawd:{* &__redis__:invalidate +auth +select +ping +info +hgetall +evalsha +script|load +subscribe +client|id +client|tracking +time +hmget +hset +expire +zadd +zrem +zcard +zscore +zrangebyscore +zremrangebyscore
END

exec redis-server /usr/local/etc/redis/redis.conf "$@"
