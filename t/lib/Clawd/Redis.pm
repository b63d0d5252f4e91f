package Clawd::Redis;

# A redis-server of the test file's own, on $TEST_NGINX_REDIS_PORT, and a proxy
# in front of it that a block may make slow, deaf or mad, on
# $TEST_NGINX_REDIS_PROXY_PORT.  A machine without redis-server fails the file.
#
# Before each block's NGINX starts the server runs, is empty, and was told what
# the sections say:
#
#   --- redis         commands, one a line; "TOKEN" in KEY(TOKEN) is hashed:
#                     HSET KEY(sk-bob) user bob
#   --- redis_args    more arguments of redis-server, for this block
#   --- redis_down    the server does not run when the block begins
#   --- redis_proxy   what the proxy does with a command: a sub that gets its
#                     words in a list and the number of the connection, and
#                     returns one of
#
#                         undef                  passes it on
#                         'bytes'                says that in place of Redis
#                         { hold => GATE }       passes it on behind the gate
#                         { late => GATE }       passes it on, and the answer
#                                                behind the gate
#                         { deaf => 1 }          never answers anything more
#                         { close => 1 }         ends the connection
#
# Clawd::Quota's http blocks name the server, or the proxy in a block that has
# one.  --- redis_conf: more arguments of clawd_redis.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Test::More ();
use Time::HiRes qw(sleep time);

use Clawd::Client qw(wait_until);

my $patience = $ENV{TEST_NGINX_PATIENCE} || 10;
my $owner = $$;
my $self;


sub import {
    my ($class) = @_;
    my $caller = caller;

    no strict 'refs';
    *{"${caller}::$_"} = \&$_ for qw(redis key_of redis_http redis_ready);

    return if $self;

    $self = bless {
        dir => tempdir('clawd-redis-XXXXXX', TMPDIR => 1, CLEANUP => 1),
        args => '', password => undef,
    }, $class;

    $self->{port} = free_port();
    $self->{proxy} = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp',
        Listen => 64) or die "the proxy cannot listen: $!\n";

    $ENV{TEST_NGINX_REDIS_PORT} = $self->{port};
    $ENV{TEST_NGINX_REDIS_PROXY_PORT} = $self->{proxy}->sockport;

    my $known = Test::Nginx::Socket->can('known_sections');
    $known->(qw(redis redis_args redis_conf redis_down redis_proxy)) if $known;

    no warnings 'once';
    $Clawd::Quota::store_of = sub { $self->prepare(@_) };

    Test::Nginx::Socket::add_block_preprocessor(sub { $self->prepare(@_) });

    $self->start;
}


sub redis {
    return $self;
}


# key_of(TOKEN): the name of its record.

sub key_of {
    return 'clawd:key:' . sha256_hex($_[0]);
}


# redis_http(PARAMETERS, MORE): http_config with the server, whatever the
# sections of the block say.

sub redis_http {
    my ($parameters, @more) = @_;

    return Clawd::Observe::http(
        'clawd_redis redis://127.0.0.1:$TEST_NGINX_REDIS_PORT/0 '
        . "$parameters;", @more);
}


sub free_port {
    my $probe = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp', Listen => 1)
        or die "no free port: $!\n";

    return $probe->sockport;
}


sub prepare {
    my ($self, $block) = @_;

    return if $block->{clawd_redis}++;

    # the configuration is made later: the store's line is of this block

    @Clawd::Quota::store =
        ('clawd_redis redis://127.0.0.1:$TEST_NGINX_REDIS_'
         . (defined $block->redis_proxy ? 'PROXY_' : '') . 'PORT/0 '
         . ($block->redis_conf // '') . ';');

    if (defined $block->redis_proxy) {
        $self->start_proxy($block->redis_proxy);
    }

    my $args = $block->redis_args // '';
    $args =~ s/\s+/ /g;

    if ($args ne $self->{args} || $self->{changed}) {
        $self->stop;
        $self->{args} = $args;
        $self->{changed} = 0;
    }

    $self->start;
    $self->command('FLUSHALL');

    for my $line (grep { /\S/ } split /\n/, $block->redis // '') {
        $self->told($line);
    }

    if (defined $block->redis_down) {
        $self->stop;
        return;
    }

    # the link is made a moment after NGINX serves

    $block->set_value(init => 'Clawd::Redis::redis_ready();'
                              . ($block->init // ''))
        if !defined $block->must_die && !defined $block->redis_proxy;
}


# redis_ready(): the gateway's link is.

sub redis_ready {
    my $ready = wait_until(sub {
        return Clawd::Observe::exchange('GET', '/v1/usage')->{status} != 503;
    });

    Test::More::fail('the link to Redis becomes ready') if !$ready;
}


# told(LINE): a command as redis-cli has it.

sub told {
    my ($self, $line) = @_;

    $line =~ s/KEY\(([^)]*)\)/key_of($1)/ge;

    my @words;

    while ($line =~ /\G\s*(?:"([^"]*)"|(\S+))/gc) {
        push @words, $1 // $2;
    }

    return $self->command(@words);
}


# The server


sub start {
    my ($self) = @_;

    return if $self->{pid};

    my $pid = fork // die "cannot fork: $!\n";

    if ($pid == 0) {
        @SIG{qw(INT TERM HUP __DIE__)} = ('DEFAULT') x 4;
        chdir $self->{dir};
        open STDOUT, '>>', "$self->{dir}/redis.log";
        open STDERR, '>&', \*STDOUT;
        exec('redis-server', '--port', $self->{port}, '--bind', '127.0.0.1',
             '--save', '', '--daemonize', 'no', '--dir', $self->{dir},
             $self->{args} =~ /--appendonly/ ? () : ('--appendonly', 'no'),
             split ' ', $self->{args})
            or POSIX::_exit(127);
    }

    $self->{pid} = $pid;
    ($self->{password}) = $self->{args} =~ /--requirepass (\S+)/;

    wait_until(sub {
        die "redis-server does not run, is it installed?\n"
            . slurp("$self->{dir}/redis.log")
            if waitpid($pid, POSIX::WNOHANG()) == $pid;

        return (eval { $self->command('PING') } // '') eq 'PONG';
    }) or die "redis-server does not answer\n";
}


# stop(): kills it: what it knew is lost.

sub stop {
    my ($self) = @_;

    delete $self->{sock};

    my $pid = delete $self->{pid} // return;

    kill 'CONT', $pid;
    kill 'KILL', $pid;
    waitpid $pid, 0;
}


# freeze(), thaw(): it is there and says nothing.

sub freeze {
    kill 'STOP', $_[0]{pid};
}

sub thaw {
    kill 'CONT', $_[0]{pid};
}


# command(WORDS...): its reply: text, undef, or a list reference; dies of an
# error.

sub command {
    my ($self, @words) = @_;

    if (!$self->{sock}) {
        $self->{sock} = IO::Socket::INET->new(
            PeerAddr => '127.0.0.1', PeerPort => $self->{port},
            Proto => 'tcp', Timeout => 2) or die "redis: connect: $!\n";
        $self->command('AUTH', $self->{password}) if defined $self->{password};
    }

    # CONFIG and ACL outlive a block

    $self->{changed} = 1 if $words[0] =~ /^(?:CONFIG|ACL|REPLICAOF)$/i;

    my $sock = $self->{sock};
    local $SIG{PIPE} = 'IGNORE';

    syswrite $sock, request(@words);

    my ($ok, $reply) = eval { (1, read_reply($sock)) };

    if (!$ok) {
        my $why = $@;
        delete $self->{sock} if $why !~ /^redis says/;
        die $why;
    }

    return $reply;
}


sub request {
    return join '', '*' . @_ . "\r\n",
                map { '$' . length($_) . "\r\n$_\r\n" } @_;
}


sub read_line {
    my ($sock, $raw) = @_;
    my $line = '';

    while ($line !~ /\r\n\z/) {
        IO::Select->new($sock)->can_read($patience)
            or die "redis: no answer\n";
        my $n = sysread $sock, my $byte, 1;
        die "redis: closed\n" if !$n;
        $line .= $byte;
    }

    $$raw .= $line if $raw;
    return substr $line, 0, -2;
}


# read_reply(SOCK, RAW): one reply; its bytes are added to $$RAW.

sub read_reply {
    my ($sock, $raw) = @_;

    my ($type, $rest) = read_line($sock, $raw) =~ /\A(.)(.*)\z/s
        or die "redis: an empty line\n";

    return $rest if $type eq '+' || $type eq ':';

    if ($type eq '-') {
        return undef if $raw;
        die "redis says: $rest\n";
    }

    if ($type eq '$') {
        return undef if $rest < 0;

        my $bytes = '';

        while (length $bytes < $rest + 2) {
            my $n = sysread $sock, $bytes, $rest + 2 - length $bytes,
                            length $bytes;
            die "redis: closed\n" if !$n;
        }

        $$raw .= $bytes if $raw;
        return substr $bytes, 0, $rest;
    }

    die "redis: what is $type$rest?\n" if $type ne '*';

    return undef if $rest < 0;
    return [map { read_reply($sock, $raw) } 1 .. $rest];
}


# What the server has of a user: a hash of the usage; the reservations that
# are open.

sub state {
    my ($self, $user) = @_;
    return { @{ $self->command('HGETALL', "clawd:{$user}:u:$user") } };
}

sub open_reservations {
    my ($self, $user) = @_;
    return $self->command('ZCARD', "clawd:{$user}:f:$user");
}


# The proxy


sub start_proxy {
    my ($self, $script) = @_;

    $self->stop_proxy;
    remove_tree("$self->{dir}/proxy");
    mkdir "$self->{dir}/proxy";

    my $pid = fork // die "cannot fork: $!\n";

    if ($pid == 0) {
        @SIG{qw(INT TERM HUP __DIE__)} = ('DEFAULT') x 4;
        $SIG{PIPE} = 'IGNORE';
        $SIG{CHLD} = 'IGNORE';
        setpgrp;
        $self->serve($script);
        POSIX::_exit(0);
    }

    POSIX::setpgid($pid, $pid);
    $self->{proxy_pid} = $pid;
}

sub stop_proxy {
    my ($self) = @_;

    my $pid = delete $self->{proxy_pid} // return;

    kill 'KILL', -$pid;
    waitpid $pid, 0;
}


# open_gate(NAME): what was held back goes on.  heard(PATTERN): the commands
# so far that match, as their words in a line; wait_heard() waits for N.

sub open_gate {
    my ($self, $gate) = @_;

    open my $out, '>', "$self->{dir}/proxy/gate.$gate" or die "gate: $!\n";
}

sub heard {
    my ($self, $pattern) = @_;

    return grep { /$pattern/ } split /\n/,
                slurp("$self->{dir}/proxy/heard");
}

sub wait_heard {
    my ($self, $pattern, $n) = @_;
    return wait_until(sub { $self->heard($pattern) >= ($n // 1) });
}


sub serve {
    my ($self, $script) = @_;
    my $n = 0;

    while (1) {
        my $sock = $self->{proxy}->accept or next;
        my $pid = fork;

        $n++;

        if (defined $pid && $pid == 0) {
            $SIG{CHLD} = 'DEFAULT';
            close $self->{proxy};
            setsockopt $sock, IPPROTO_TCP, TCP_NODELAY, 1;
            eval { $self->relay($sock, $script, $n); 1 }
                or $@ =~ /^(?:gone|redis: )/ or print STDERR "proxy: $@";
            POSIX::_exit(0);
        }

        close $sock;
    }
}


# One command after the other, as the server does; what the server says
# unasked is passed on.

sub relay {
    my ($self, $sock, $script, $n) = @_;

    my $server = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Proto => 'tcp')
        or die "gone\n";
    my $select = IO::Select->new($sock, $server);
    my $buffer = '';

    while (1) {
        while (my @words = next_command(\$buffer)) {
            $self->note(@words);
            $self->answer($sock, $server, $script->(\@words, $n), @words);
        }

        for my $ready ($select->can_read) {
            my $got = sysread $ready, my $bytes, 65536;
            die "gone\n" if !$got;

            if ($ready == $sock) {
                $buffer .= $bytes;
            } else {
                syswrite $sock, $bytes;
            }
        }
    }
}


sub answer {
    my ($self, $sock, $server, $what, @words) = @_;
    my $raw = '';

    if (defined $what && !ref $what) {
        syswrite $sock, $what;
        return;
    }

    $what //= {};

    die "gone\n" if $what->{close};

    # a peer that leaves is not heard meanwhile, as by a server that is busy

    sleep 3600 if $what->{deaf};
    $self->wait_gate($what->{hold}) if $what->{hold};

    syswrite $server, request(@words);
    read_reply($server, \$raw);

    $self->wait_gate($what->{late}) if $what->{late};
    syswrite $sock, $raw;
}


sub wait_gate {
    my ($self, $gate) = @_;

    wait_until(sub { -e "$self->{dir}/proxy/gate.$gate" })
        or die "gone, the gate $gate stays shut\n";
}


sub note {
    my ($self, @words) = @_;

    open my $out, '>>', "$self->{dir}/proxy/heard" or die "heard: $!\n";
    syswrite $out, join(' ', map { s/\s+/ /gr } @words) . "\n";
}


sub next_command {
    my ($buffer) = @_;

    $$buffer =~ /\A\*(\d+)\r\n/ or return;

    my ($count, $at, @words) = ($1, $+[0]);

    for (1 .. $count) {
        substr($$buffer, $at) =~ /\A\$(\d+)\r\n/ or return;

        $at += $+[0];
        return if length $$buffer < $at + $1 + 2;
        push @words, substr $$buffer, $at, $1;
        $at += $1 + 2;
    }

    substr $$buffer, 0, $at, '';
    return @words;
}


sub slurp {
    my ($path) = @_;

    open my $in, '<', $path or return '';
    local $/;
    return scalar(<$in>) // '';
}


sub END {
    return if $$ != $owner || !$self;

    my $status = $?;
    $self->stop_proxy;
    $self->stop;
    $? = $status;
}


1;
