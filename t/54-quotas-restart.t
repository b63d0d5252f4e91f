# What was used outlives reloads, workers that die, and NGINX itself.

use strict;
use warnings;

use File::Path qw(make_path);
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(sleep time);

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Redis;
use Clawd::Quota;

master_on();
workers(2);
no_shuffle();
log_level('info');
run_tests();


# Changes the text of the configuration that runs.

sub change {
    my ($from, $to) = @_;
    my $path = server_root() . '/conf/nginx.conf';

    open my $in, '<', $path or die "cannot read $path: $!\n";
    my $text = do { local $/; <$in> };
    $text =~ s/\Q$from\E/$to/ or die "no $from in $path\n";
    open my $out, '>', $path or die "cannot write $path: $!\n";
    print $out $text;
    close $out or die "cannot write $path: $!\n";
}


# An NGINX of the block's own, that it may end as it likes.  Functions that
# ask go to it as long as it runs.

our %own;

sub own_start {
    my (@http) = @_;
    my $root = server_root() . '/own_temp';
    my $path = "$root/nginx.conf";

    make_path(map { "$root/$_" } qw(logs state));
    $own{root} = $root;
    $own{port} //= IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1)->sockport;

    my $http = join "\n", @http, 'clawd_zone clawd:1m;',
        'clawd_token sk-alice user=alice;', 'clawd_token sk-bob user=bob;',
        map { "${_}_temp_path $root/${_}_temp;" }
            qw(client_body proxy fastcgi uwsgi scgi);
    my $modules = join '', map { "load_module $_;\n" }
                           split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // '';
    my $user = $> == 0 ? "user root;\n" : '';

    open my $out, '>', $path or die "cannot write $path: $!\n";
    print $out <<"EOC";
$modules${user}daemon off;
worker_processes 2;
pid $root/nginx.pid;
error_log $root/logs/error.log info;
events { }
http {
    access_log off;
    $http
    server {
        listen 127.0.0.1:$own{port};
        location / {
            clawd_pass http://127.0.0.1:$ENV{TEST_NGINX_UPSTREAM_PORT};
        }
        location = /metrics { clawd_metrics; }
    }
}
EOC
    close $out or die "cannot write $path: $!\n";

    $own{theirs} //= $ENV{TEST_NGINX_SERVER_PORT};
    unlink "$root/nginx.pid";

    my $pid = fork // die "cannot fork: $!\n";

    if ($pid == 0) {
        @SIG{qw(INT TERM HUP __DIE__)} = ('DEFAULT') x 4;
        setpgrp;
        $ENV{ASAN_OPTIONS} = "log_path=$root/logs/sanitizer:detect_leaks=0";
        open STDERR, '>>', "$root/logs/stderr.log";
        exec(own_command()) or POSIX::_exit(127);
    }

    POSIX::setpgid($pid, $pid);
    $own{pid} = $pid;

    # it listens before it has read everything: it runs when its workers do

    my $gone;
    my $runs = wait_until(sub {
        return 1 if $gone = waitpid($pid, POSIX::WNOHANG()) == $pid;

        open my $in, '<', "/proc/$pid/task/$pid/children" or return 0;
        my @workers = grep { Clawd::Client::named_worker($_) }
                           split ' ', scalar(<$in>) // '';
        return @workers == 2;
    }, 30);
    die "NGINX does not run\n" . own_log() if !$runs || $gone;

    $ENV{TEST_NGINX_SERVER_PORT} = $own{port};
}

sub own_command {
    return ($ENV{TEST_NGINX_BINARY}, '-p', "$own{root}/", '-c',
            "$own{root}/nginx.conf", '-e', "$own{root}/logs/error.log");
}

sub own_log {
    open my $in, '<', "$own{root}/logs/error.log" or return '';
    local $/;
    return scalar(<$in>) // '';
}

sub own_end {
    my ($how) = @_;
    my $pid = delete $own{pid} // return;

    $ENV{TEST_NGINX_SERVER_PORT} = $own{theirs};

    my @workers;

    if (open my $in, '<', "/proc/$pid/task/$pid/children") {
        @workers = split ' ', scalar(<$in>) // '';
    }

    # all at once: nobody is left to see it

    kill $how, $how eq 'KILL' ? -$pid : $pid;
    waitpid $pid, 0;

    wait_until(sub { !grep { runs($_) } @workers });

    my @found = grep { /\[(?:alert|emerg)\]/ } split /^/, own_log();
    Test::More::is(scalar @found, 0, 'no alerts') or Test::More::diag(@found);
    Test::More::is(scalar(my @reports = glob "$own{root}/logs/sanitizer.*"), 0,
                   'no reports');
}

# runs(PID): it is there, and not only as a zombie that nobody waits for.

sub runs {
    my ($pid) = @_;

    open my $in, '<', "/proc/$pid/stat" or return 0;
    return (<$in> // '') !~ /\) Z /;
}

# own_test(): nginx -t; its output.

sub own_test {
    my @command = map { "'$_'" } own_command();
    my $text = `ASAN_OPTIONS=detect_leaks=0 @command -t 2>&1`;

    return ($? >> 8, $text);
}

sub state_line {
    return "clawd_state $own{root}/state/usage.json;" if $own{root};
    return 'clawd_state ' . server_root() . '/own_temp/state/usage.json;';
}

sub state_text {
    open my $in, '<', "$own{root}/state/usage.json" or return undef;
    local $/;
    return scalar <$in>;
}

sub END {
    my $status = $?;
    kill 'KILL', -$own{pid} if $own{pid};
    $? = $status;
}

__DATA__

=== a reload: new limits act at once, what was used stays
--- http_config eval
Clawd::Observe::http('clawd_quota default tokens_per_day=1000 rpm=50;')
--- init
package main;
early();
admitted(post('chat'), "request $_") for 1 .. 3;
becomes_used(15, 'before');
change('tokens_per_day=1000', 'tokens_per_day=230');
Test::More::ok(reload_nginx(), 'reload');
my $usage = usage();
Test::More::is($usage->{tokens_per_day}{limit}, 230, 'the new limit');
Test::More::is($usage->{tokens_per_day}{used}, 15, 'the use of before');
Test::More::is($usage->{rpm}{used}, 3, 'of the minute, too');
denied(post('chat'), 'chat', 429, 'insufficient_quota', 'insufficient_quota',
       qr/daily tokens: 15 of 230 used, .*/, 'it acts');
change('clawd_quota default tokens_per_day=230 rpm=50;', '');
Test::More::ok(reload_nginx(), 'reload without any');
Test::More::is(exchange('GET', '/v1/usage')->{status}, 404, 'no ledger');
admitted(post('chat'), 'no limit');
change('clawd_zone clawd:1m;',
       "clawd_zone clawd:1m;\nclawd_quota default tokens_per_day=240;");
Test::More::ok(reload_nginx(), 'reload with one');
Test::More::is(used('tokens_per_day'), 15, 'what was used is known still');
--- error_code: 200
--- no_error_log
[error]



=== a reload with Redis
--- quota
default tokens_per_day=1000
--- redis
HSET KEY(sk-bob) user bob
HSET clawd:user:bob plan default
--- init
package main;
admitted(post('chat', token => 'sk-bob'), "request $_") for 1 .. 3;
becomes_used(15, 'before', 'sk-bob');
change('tokens_per_day=1000', 'tokens_per_day=230');
Test::More::ok(reload_nginx(), 'reload');
Clawd::Redis::redis_ready();
my $usage = usage('sk-bob');
Test::More::is($usage->{tokens_per_day}{limit}, 230, 'the new limit');
Test::More::is($usage->{tokens_per_day}{used}, 15, 'the use of before');
--- no_error_log
[alert]



=== a reload during a request: its place is held until it ends
--- http_config eval
Clawd::Observe::http('clawd_quota default concurrency=1 tokens_per_day=1000;')
--- upstream eval
{ '/v1/chat/completions' => [{ gate => 'go' },
                             sub { Clawd::Gate::answer($_[0]) }],
  '*' => [sub { Clawd::Gate::answer($_[0]) }] }
--- init
package main;
my $client = send_post('chat');
upstream()->wait_for(1);
Test::More::ok(reload_nginx(), 'reload');
Test::More::is(post('messages')->{status}, 429, 'the place is taken');
upstream()->open_gate('go');
Test::More::like($client->read_all // '', qr/\A\S+ 200 /, 'it ends well');
$client->close;
unheld();
becomes_used(5, 'settled');
admitted(post('messages'), 'the next one');
becomes_used(10, 'settled');



=== a reload during a request, with Redis
--- quota
default concurrency=1 tokens_per_day=1000
--- upstream eval
{ '/v1/chat/completions' => [{ gate => 'go' },
                             sub { Clawd::Gate::answer($_[0]) }],
  '*' => [sub { Clawd::Gate::answer($_[0]) }] }
--- init
package main;
my $client = send_post('chat');
upstream()->wait_for(1);
Test::More::ok(reload_nginx(), 'reload');
Clawd::Redis::redis_ready();
Test::More::is(post('messages')->{status}, 429, 'the place is taken');
upstream()->open_gate('go');
Test::More::like($client->read_all // '', qr/\A\S+ 200 /, 'it ends well');
$client->close;
unheld();
becomes_used(5, 'settled');
Test::More::is(redis()->open_reservations('alice'), 0, 'nothing is held');



=== a worker that is killed gives its places back, and has used its estimate
--- http_config eval
Clawd::Observe::http('clawd_quota default concurrency=2 tokens_per_day=2000;')
--- upstream eval
{ '/v1/chat/completions' => [{ stall => 1 }],
  '*' => [sub { Clawd::Gate::answer($_[0]) }] }
--- init
package main;
my @clients = map { send_post('chat') } 1 .. 2;
upstream()->wait_for(2);
Test::More::is(post('messages')->{status}, 429, 'all places are taken');
kill 'KILL', worker_pids();
unheld('they are back');
becomes_used(2 * estimate('chat'), 'the estimates are charged');
admitted(post('messages'), 'the next one');
becomes_used(2 * estimate('chat') + 5, 'settled');
--- error_log
[alert]
exited on signal 9



=== a worker that is killed, with Redis
--- quota
default concurrency=2 tokens_per_day=2000
--- upstream eval
{ '/v1/chat/completions' => [{ stall => 1 }],
  '*' => [sub { Clawd::Gate::answer($_[0]) }] }
--- init
package main;
my @clients = map { send_post('chat') } 1 .. 2;
upstream()->wait_for(2);
Test::More::is(post('messages')->{status}, 429, 'all places are taken');
kill 'KILL', worker_pids();
unheld('they are back');
becomes_used(2 * estimate('chat'), 'the estimates are charged');
Test::More::is(redis()->open_reservations('alice'), 0, 'nothing is held');
Test::More::ok(wait_until(sub { post('messages')->{status} == 200 }),
               'the next one');
--- error_log
[alert]
exited on signal 9



=== clawd_state: NGINX ends and comes back
--- http_config eval: Clawd::Observe::http()
--- init
package main;
early(20);
my @http = ('clawd_quota default tokens_per_day=10000 rpm=100;', state_line());
own_start(@http);
admitted(post('chat'), "request $_") for 1 .. 4;
becomes_used(20, 'before');
my $month = used('tokens_per_month');
own_end('QUIT');
Test::More::like(state_text(), qr/"alice":\{.*"day_tokens":20\b/, 'the file');
own_start(@http);
Test::More::is(used('tokens_per_day'), 20, 'exactly what was used');
Test::More::is(used('tokens_per_month'), $month, 'of the month');
Test::More::is(used('rpm'), 4, 'of the minute');
admitted(post('chat'), 'and on');
becomes_used(25, 'it counts');
own_end('TERM');
own_start(@http);
Test::More::is(used('tokens_per_day'), 25, 'TERM is as good');
own_end('QUIT');



=== clawd_state: everything is killed at once
--- http_config eval: Clawd::Observe::http()
--- init
package main;
early(30);
my @http = ('clawd_quota default tokens_per_day=10000 rpm=100;',
            'clawd_quota free tokens_per_day=3200;',
            'clawd_token sk-free user=free plan=free;',
            state_line());
own_start(@http);
admitted(post('chat'), "request $_") for 1 .. 4;
becomes_used(20, 'before');
own_end('KILL');
own_start(@http);
my $usage = usage();
Test::More::cmp_ok($usage->{tokens_per_day}{used}, '>=', 20,
                   'never less than was used');
Test::More::cmp_ok($usage->{tokens_per_day}{used}, '<=',
                   20 + estimate('chat') + 10000 / 32,
                   'and not much more');
my $no = denied(post('chat'), 'chat', 429, 'rate_limit_error',
                'rate_limit_exceeded',
                qr/requests per minute: 100 of 100 used; resets in @{[soon()]}/,
                'the minute is over');
limited_headers($no, 'the minute', 'retry-after' => qr/[1-9]|[1-5]\d/);
own_end('KILL');
own_start(@http);
Test::More::cmp_ok(used('tokens_per_day'), '>=', 20, 'twice');
own_end('QUIT');



=== clawd_state: killed with requests under way
--- http_config eval: Clawd::Observe::http()
--- upstream eval
[{ stall => 1 }]
--- init
package main;
my @http = ('clawd_quota default tokens_per_day=10000;', state_line());
own_start(@http);
my @clients = map { send_post('chat') } 1 .. 4;
upstream()->wait_for(4);
own_end('KILL');
own_start(@http);
Test::More::cmp_ok(used('tokens_per_day'), '>=', 4 * estimate('chat'),
                   'all that was reserved is charged');
Test::More::is(used('concurrency'), 0, 'nothing is held');
own_end('QUIT');
own_start(@http);
Test::More::cmp_ok(used('tokens_per_day'), '>=', 4 * estimate('chat'),
                   'and stays so');
own_end('QUIT');



=== clawd_state: a file that is damaged is told, and stays as it is
--- http_config eval: Clawd::Observe::http()
--- init
package main;
my @http = ('clawd_quota default tokens_per_day=10000;', state_line());
own_start(@http);
admitted(post('chat'), 'a request');
becomes_used(5, 'before');
own_end('QUIT');
my $good = state_text();
my $path = server_root() . '/own_temp/state/usage.json';
my %bad = (
    'torn' => [substr($good, 0, length($good) / 2), 'is damaged in line'],
    'empty' => ['', 'is damaged in line'],
    'another file' => ['{"a":1}', 'is no state file'],
    'a newer one' => [$good =~ s/"clawd":1/"clawd":2/r,
                      'is of another version of clawd'],
    'a negative count' => [$good =~ s/"day_tokens":5/"day_tokens":-5/r,
                           'has an invalid user'],
);
for my $name (sort keys %bad) {
    my ($text, $why) = @{ $bad{$name} };
    open my $out, '>', $path or die;
    print $out $text;
    close $out;
    my $ran = eval { own_start(@http); 1 };
    Test::More::ok(!$ran, "$name: NGINX does not run");
    Test::More::like(own_log(), qr/\[emerg\] .*the state file "\Q$path\E" \Q$why\E.*: put that right or restore a copy, or move the file away to begin with no usage/,
                     "$name: a sentence");
    delete $main::own{pid};
    $ENV{TEST_NGINX_SERVER_PORT} = $main::own{theirs};
    Test::More::is(state_text(), $text, "$name: it is not touched");
    unlink server_root() . '/own_temp/logs/error.log';
}
unlink $path;
own_start(@http);
Test::More::is(used('tokens_per_day'), 0, 'moved away: no usage');
own_end('QUIT');



=== clawd_state: nginx -t reads it and leaves it alone
--- http_config eval: Clawd::Observe::http()
--- init
package main;
my @http = ('clawd_quota default tokens_per_day=10000;', state_line());
own_start(@http);
admitted(post('chat'), 'a request');
becomes_used(5, 'before');
my $before = state_text();
my ($code, $text) = own_test();
Test::More::is($code, 0, 'the test succeeds') or Test::More::diag($text);
Test::More::is(state_text(), $before, 'the file is as it was');
Test::More::is(used('tokens_per_day'), 5, 'and so is the usage');
own_end('QUIT');
open my $out, '>', server_root() . '/own_temp/state/usage.json';
print $out '{"clawd":';
close $out;
($code, $text) = own_test();
Test::More::isnt($code, 0, 'a damaged one fails it');
Test::More::like($text, qr/the state file ".*" is damaged in line 1/,
                 'with a sentence');



=== clawd_state: a folder that goes away admits nothing
--- http_config eval: Clawd::Observe::http()
--- init
package main;
my @http = ('clawd_quota default tokens_per_day=3200;', state_line());
own_start(@http);
admitted(post('chat'), 'a request');
becomes_used(5, 'before');
my $root = server_root() . '/own_temp';
rename "$root/state", "$root/away";
my $status = 200;
for (1 .. 40) {
    last if ($status = post('chat', max => 500, token => 'sk-bob')->{status})
            != 200;
}
Test::More::is($status, 503, 'what can not be saved is not admitted');
Test::More::like(own_log(), qr/\[crit\] .*the ledger can't be saved to ".*", nothing more is admitted: open.* failed/,
                 'and it is told');
rename "$root/away", "$root/state";
Test::More::ok(wait_until(sub {
    return post('chat', max => 500, token => 'sk-bob')->{status} == 200;
}), 'it goes on when it is back');
own_end('QUIT');
