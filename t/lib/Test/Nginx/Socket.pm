package Test::Nginx::Socket;

# A small runner for test files in the format of Test::Nginx::Socket, for
# machines that do not have that module.  It reads the sections that the
# suites here use, and refuses those it does not know.  See t/lib/README.md.

use strict;
use warnings;

use Test::Base -base;

use File::Basename qw(dirname);
use File::Path qw(make_path);
use File::Spec;
use IO::Socket::INET;
use List::Util qw(shuffle);
use POSIX ();
use Test::More ();
use Time::HiRes qw(sleep time);

use Clawd::Runner::Http;
use Clawd::Runner::Server;

our @EXPORT = qw(
    add_block_preprocessor add_cleanup_handler add_response_body_check
    add_test_cleanup_handler bail_out config_preamble env_to_nginx html_dir
    is_str log_level master_off master_on master_process_enabled
    no_long_string no_root_location no_shuffle plan repeat_each run_tests
    server_addr server_name server_port server_port_for_client server_root
    timeout worker_connections workers
);

my %known = map { $_ => 1 } qw(
    ONLY LAST SKIP abort access_log config curl_options error_code
    error_code_like error_log grep_error_log grep_error_log_out http2
    http_config ignore_response init log_level main_config more_headers
    must_die no_access_log no_check_leak no_error_log no_shutdown_error_log
    pipelined_requests post_main_config raw_request raw_request_middle_delay
    raw_response_headers_like raw_response_headers_unlike request
    response_body response_body_like response_body_unlike response_headers
    response_headers_like shutdown shutdown_error_log skip_eval skip_nginx
    tcp_listen tcp_no_close tcp_query tcp_query_len tcp_reply
    tcp_reply_delay tcp_shutdown timeout user_files wait
);

my %set = (
    repeat   => 1,
    workers  => 1,
    conns    => 64,
    level    => $ENV{TEST_NGINX_LOG_LEVEL} || 'debug',
    master   => 'off',
    timeout  => $ENV{TEST_NGINX_TIMEOUT} || 3,
    name     => 'localhost',
    addr     => '127.0.0.1',
    preamble => '',
);

# How long to wait for a line of a log.

my $patience = $ENV{TEST_NGINX_PATIENCE} || 3;

my (@env, @preprocessors, @cleanups, @test_cleanups, @body_checks);

my $binary = $ENV{TEST_NGINX_BINARY} || 'nginx';
my $port   = Clawd::Runner::Server::free_port();
my $owner  = $$;

my $nginx = Clawd::Runner::Server->new(
    binary => $binary,
    root   => $ENV{TEST_NGINX_SERVROOT} || "t/servroot_$$");

my ($version, $tcp, %ports, $rounds);

$ENV{TEST_NGINX_SERVER_PORT} = $port;
$ENV{TEST_NGINX_SERVER_ROOT} = $nginx->{root};

$SIG{INT} = $SIG{TERM} = $SIG{HUP} = sub { exit 1 };


# Settings.  Each one with an argument sets, without one tells.

sub setting {
    my ($name, @value) = @_;

    $set{$name} = $value[0] if @value;
    return $set{$name};
}

sub repeat_each (@)        { setting('repeat', @_) }
sub workers (@)            { setting('workers', @_) }
sub worker_connections (@) { setting('conns', @_) }
sub log_level (@)          { setting('level', @_) }
sub timeout (@)            { setting('timeout', @_) }
sub server_name (@)        { setting('name', @_) }
sub server_addr (@)        { setting('addr', @_) }
sub config_preamble ($)    { $set{preamble} = shift }
sub master_on ()           { $set{master} = 'on' }
sub master_off ()          { $set{master} = 'off' }
sub no_shuffle ()          { $set{no_shuffle} = 1 }
sub no_long_string ()      { $set{no_long_string} = 1 }
sub no_root_location ()    { $set{no_root} = 1 }
sub server_root ()         { $nginx->{root} }
sub html_dir ()            { $nginx->{html} }

sub master_process_enabled (@) {
    $set{master} = $_[0] ? 'on' : 'off' if @_;
    return $set{master} eq 'on';
}

sub server_port (@) {
    $ENV{TEST_NGINX_SERVER_PORT} = $port = $_[0] if @_;
    return $port;
}

sub server_port_for_client (@)   { server_port(@_) }
sub env_to_nginx (@)             { push @env, @_ }
sub add_block_preprocessor (&)   { push @preprocessors, shift }
sub add_cleanup_handler ($)      { push @cleanups, shift }
sub add_test_cleanup_handler ($) { push @test_cleanups, shift }
sub add_response_body_check ($)  { push @body_checks, shift }

# Ends this file as failed; other files of the same run go on.

sub bail_out (@) {
    Test::More::fail(join '', @_);
    Test::More::done_testing() if !Test::More->builder->has_plan;
    exit 255;
}

# Helpers of test files may bring sections of their own.

sub known_sections {
    $known{$_} = 1 for @_;
}

# What is expected may be a string or a pattern.

sub is_str (@) {
    my ($got, $want, $name) = @_;

    return ref $want ? Test::More::like($got, $want, $name)
                     : Test::More::is($got, $want, $name);
}

# A failure that counts as a test of its own only when it happens, so that
# files with a fixed plan stay within it when all is well.

sub complain {
    my ($name, $what, @lines) = @_;

    Test::More::fail("$name - $what");
    Test::More::diag($_) for @lines;
    return;
}


sub run_tests () {
    $version = $nginx->version;

    my @blocks = Test::Base::blocks();
    bail_out("$0 has no blocks") if !@blocks;

    for my $block ($set{no_shuffle} ? @blocks : shuffle @blocks) {
        $_->($block) for @preprocessors;
        run_block($block);
        $_->() for @test_cleanups;
    }

    cleanup();
}


sub END {
    return if $$ != $owner;
    my $status = $?;
    cleanup();
    $? = $status;
}


# The folder stays for a look when something failed.

sub cleanup {
    $_->() for splice @cleanups;
    stop_tcp();

    if ($nginx) {
        $nginx->stop;
        $nginx->remove if Test::More->builder->is_passing
                          && !$ENV{TEST_NGINX_NO_CLEAN};
    }
}


sub run_block {
    my ($block) = @_;
    my $name = "$0 " . $block->name;

    for my $section (keys %{ $block->original_values }) {
        next if $section =~ /^(?:name|description|_section_order)$/;

        bail_out("$name - unknown section --- $section")
            if !$known{$section};
    }

    return if defined $block->SKIP;
    return if skipped($block, $name);

    bail_out("$name - no --- config") if !defined $block->config;

    %ports = ();
    $nginx->prepare;
    write_config($block, $name);
    write_user_files($block, $name);

    if (defined $block->must_die) {
        must_die($block, $name, $_) for 0 .. $set{repeat} - 1;
        return;
    }

    if (!eval { $nginx->start(1) }) {
        my $why = $@ || 'NGINX does not start';
        $nginx->stop;
        bail_out("$name - $why\n",
                 Clawd::Runner::Server::read_file($nginx->{stderr}));
    }

    $nginx->wait_workers($set{workers}) if $set{master} eq 'on';
    eval_section($block, $name, 'init');

    for my $round (0 .. $set{repeat} - 1) {
        $rounds = $round;
        start_tcp($block, $name);
        run_requests($block, $name);
        check_tcp_query($block, $name);
        stop_tcp();
    }

    my $crash = $nginx->stop;
    complain($name, $crash) if defined $crash;

    check_log($block, $name, 'error', 'shutdown_error_log', 0);
    check_log($block, $name, 'error', 'no_shutdown_error_log', 1);
    check_complaints($block, $name);
}


sub eval_section {
    my ($block, $name, $section) = @_;

    my $code = $block->$section;
    return if !defined $code || $code eq '';

    eval "package main; no strict; $code; 1"
        or bail_out("$name - $section failed: $@");
}


# skip_nginx: "N: < 1.26.0" and skip_eval: "N: perl expression".

sub skipped {
    my ($block, $name) = @_;
    my ($count, $why);

    if (defined(my $spec = $block->skip_nginx)) {
        $spec =~ /^\s*(\d+)\s*:\s*([<>]=?)\s*(\d+)\.(\d+)\.(\d+)
                  (?:\s*:\s*(.*?))?\s*$/x
            or bail_out("$name - bad --- skip_nginx: $spec");

        my $other = sprintf '%d.%03d%03d', $3, $4, $5;
        my $true = $2 eq '<'  ? $version <  $other
                 : $2 eq '<=' ? $version <= $other
                 : $2 eq '>'  ? $version >  $other
                 :              $version >= $other;

        ($count, $why) = ($1, $6 // "nginx $2 $3.$4.$5") if $true;
    }

    if (defined(my $spec = $block->skip_eval)) {
        $spec =~ /^\s*(\d+)\s*:\s*(.*)/s
            or bail_out("$name - bad --- skip_eval: $spec");

        my ($n, $code) = ($1, $2);
        my $true = eval "package main; $code";
        bail_out("$name - skip_eval failed: $@") if $@;
        ($count, $why) = ($n, 'skip_eval') if $true;
    }

    return 0 if !defined $count;

    SKIP: {
        Test::More::skip("$name - $why", $count);
    }

    return 1;
}


# Configuration


# expand(TEXT): $TEST_NGINX_* out of the environment; each RAND_PORT_n is one
# free port per block.

sub expand {
    my ($text, $name) = @_;

    return '' if !defined $text;

    $text =~ s{\$(TEST_NGINX_[_A-Z0-9]+)}{
        my $var = $1;

        if ($var =~ /^TEST_NGINX_RAND_PORT_\d+$/) {
            $ports{$var} //= Clawd::Runner::Server::free_port();

        } else {
            $ENV{$var} // bail_out("$name - environment $var is not set");
        }
    }eg;

    return $text;
}


sub write_config {
    my ($block, $name) = @_;

    my $root  = $nginx->{root};
    my $level = $block->log_level // $set{level};
    chomp $level;

    my $modules = join '', map { "load_module $_;\n" }
                           split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // '';
    my $env  = join '', map { /\s/ ? "env '$_';\n" : "env $_;\n" } @env;
    my $user = $> == 0 ? "user root;\n" : '';
    my $listen = $port;
    my $h2 = '';

    if (defined $block->http2) {
        if ($version >= 1.025001) {
            $h2 = 'http2 on;';
        } else {
            $listen .= ' http2';
        }
    }

    my $temp = join ' ',
        map { "${_}_temp_path $root/${_}_temp;" }
            qw(client_body proxy fastcgi uwsgi scgi);

    my ($main, $post_main, $http, $server) =
        map { expand(scalar $block->$_, $name) }
            qw(main_config post_main_config http_config config);

    for my $own (qw(client_body proxy)) {
        $temp =~ s/${own}_temp_path \S+// if $http =~ /\b${own}_temp_path\b/;
    }

    my $default = $set{no_root} ? ''
        : "        location / { root $nginx->{html};"
          . " index index.html index.htm; }\n";

    Clawd::Runner::Server::write_file($nginx->{conf}, <<"EOC");
worker_processes $set{workers};
daemon off;
master_process $set{master};
error_log $nginx->{errors} $level;
pid $nginx->{pid};
$user$env$modules
$main

http {
    access_log $nginx->{access};
    $temp

    default_type text/plain;
    keepalive_timeout 68s;

$http
    server {
        listen $set{addr}:$listen; $h2
        server_name '$set{name}';

        client_max_body_size 30M;

$set{preamble}
$server
$default
    }
}

$post_main

events {
    accept_mutex off;
    worker_connections $set{conns};
}
EOC
}


# user_files: ">>> name" lines, or a list of [name, text].

sub write_user_files {
    my ($block, $name) = @_;

    my $files = $block->user_files // return;

    if (!ref $files) {
        my @list;

        for my $line (split /^/, $files) {
            if ($line =~ /^>>> (\S+)/) {
                push @list, [$1, ''];
            } elsif (@list) {
                $list[-1][1] .= $line;
            }
        }

        $files = \@list;
    }

    for my $file (@$files) {
        my $path = File::Spec->rel2abs($file->[0], $nginx->{html});
        make_path(dirname($path));
        Clawd::Runner::Server::write_file($path, expand($file->[1], $name));
    }
}


sub must_die {
    my ($block, $name, $round) = @_;

    $rounds = $round;
    my $started = eval { $nginx->start(0) };
    my $code = $block->must_die;
    my $status = $nginx->{status} // 0;

    if ($started) {
        Test::More::fail("$name - die as expected");
        $nginx->stop;

    } elsif ($status & 127) {
        Test::More::fail("$name - die of an error, not of signal "
                         . ($status & 127));

    } elsif ($code =~ /^\s*(\d+)\s*$/) {
        Test::More::is($status >> 8, $1,
                       "$name - die with the expected exit code");

    } else {
        Test::More::isnt($status, 0, "$name - die as expected");
    }

    delete $nginx->{status};
    check_logs($block, $name);
    check_complaints($block, $name, 'no emerg');
}


# Requests


sub run_requests {
    my ($block, $name) = @_;

    my @requests = requests_of($block, $name);
    my $pipelined = $block->pipelined_requests ? @{ $block->pipelined_requests }
                                               : 0;
    my $many = @requests > 1 || $pipelined;
    my $count = $pipelined || @requests;
    my $left = '';

    for my $i (0 .. $count - 1) {
        if (!$pipelined || $i == 0) {
            $left = defined $block->http2 ? send_by_curl($block, $name,
                                                         $requests[$i])
                                          : send_raw($block, $name,
                                                     $requests[$i]);
        }

        my $text = join '', map { $_->{value} } @{ $requests[$i] // [] };
        my ($method) = $text =~ /^\s*(\S+)/;

        if (!defined $block->ignore_response) {
            my $res = Clawd::Runner::Http::parse($left, $method // 'GET');
            $left = $res->{left};
            check_response($block, $name, $res, $i, $many);

            if ($left ne '' && !$pipelined) {
                Test::More::diag("$name - bytes after the response: $left");
            }
        }

        sleep $block->wait if $block->wait;
        check_logs($block, $name);
    }
}


# The requests of a block, each as a list of pieces to send.

sub requests_of {
    my ($block, $name) = @_;

    if (defined(my $raw = $block->raw_request)) {
        return [map { { value => $_ } } ref $raw ? @$raw : $raw];
    }

    my $more = $block->more_headers // '';

    if (my $list = $block->pipelined_requests) {
        ref $list eq 'ARRAY'
            or bail_out("$name - --- pipelined_requests is not a list");

        my $text = '';

        for my $i (0 .. $#$list) {
            my $pieces = complete($name, [{ value => expand($list->[$i]) }],
                                  indexed($more, $i),
                                  $i == $#$list ? 'close' : 'keep-alive');
            $text .= join '', map { $_->{value} } @$pieces;
        }

        return [{ value => $text }];
    }

    my $request = $block->request // bail_out("$name - no --- request");

    if (!ref $request) {
        1 while $request =~ s/\A(?:\s*#[^\n]+\s+|\s+)//;
        $request = [$request];
    }

    return map {
        my $one = $request->[$_];
        my @pieces = map { ref $_ ? { %$_ } : { value => $_ } }
                         ref $one ? @$one : $one;
        complete($name, \@pieces, indexed($more, $_), 'close');
    } 0 .. $#$request;
}


sub complete {
    my ($name, $pieces, $more, $connection) = @_;

    defined $more or bail_out("$name - --- more_headers has too few entries");

    my $done = eval {
        Clawd::Runner::Http::build($pieces, $more, $connection);
    };

    bail_out("$name - $@") if !$done;
    return $done;
}


sub indexed {
    my ($value, $i) = @_;
    return ref $value eq 'ARRAY' ? $value->[$i] : $value;
}


sub seconds {
    my ($text) = @_;

    return undef if !defined $text || $text eq '';
    return $1 / 1000 if $text =~ /^\s*([\d.]+)\s*ms\s*$/;
    return $1 if $text =~ /^\s*([\d.]+)\s*s?\s*$/;
    bail_out("bad time \"$text\"");
}


sub send_raw {
    my ($block, $name, $pieces) = @_;

    my $shutdown = $block->shutdown;
    $shutdown = 1 if defined $shutdown && $shutdown =~ /^\s*$/;

    my $answer = Clawd::Runner::Http::exchange($port, $pieces, {
        addr         => $set{addr},
        timeout      => seconds(scalar $block->timeout) // $set{timeout},
        middle_delay => scalar $block->raw_request_middle_delay,
        shutdown     => $shutdown,
    });

    complain($name, 'client socket timed out')
        if $answer->{timed_out} && !defined $block->abort;

    Test::More::diag("$name - $answer->{error}") if $answer->{error};
    return $answer->{raw};
}


sub send_by_curl {
    my ($block, $name, $pieces) = @_;

    my $text = join '', map { $_->{value} } @$pieces;
    my ($head, $body) = $text =~ /\A(.*?)\r\n\r\n(.*)\z/s
        or bail_out("$name - not a request: $text");
    my ($line, @headers) = split /\r\n/, $head;
    my ($method, $uri) = split ' ', $line;
    my $time = seconds(scalar $block->timeout) // $set{timeout};

    my @cmd = ('curl', '-isS', '--http2-prior-knowledge', '--path-as-is',
               '--max-time', $time, '-H', 'User-Agent:', '-H', 'Accept:');

    push @cmd, $method eq 'HEAD' ? '-I' : ('-X', $method);
    push @cmd, map { ('-H', $_) } grep { !/^Connection\s*:/i } @headers;

    if ($body ne '') {
        my $file = "$nginx->{root}/curl.body";
        Clawd::Runner::Server::write_file($file, $body);
        push @cmd, '-H', 'Content-Type:'
            if !grep { /^Content-Type\s*:/i } @headers;
        push @cmd, '--data-binary', "\@$file";
    }

    push @cmd, split ' ', $block->curl_options // '';
    push @cmd, "http://$set{addr}:$port$uri";

    open my $pipe, '-|', @cmd or bail_out("$name - cannot run curl: $!");
    binmode $pipe;
    my $raw = do { local $/; <$pipe> } // '';
    close $pipe;

    complain($name, 'client timed out')
        if $? >> 8 == 28 && !defined $block->abort;

    return $raw;
}


# Responses


sub check_response {
    my ($block, $name, $res, $i, $many) = @_;

    complain($name, "bad response: $res->{error}") if $res->{error};
    Test::More::diag("$name - body cut: $res->{truncated}")
        if $res->{truncated};

    my $want = sub {
        my ($section) = @_;
        my $value = $block->$section;

        bail_out("$name - --- $section must be a list, as the requests are")
            if $many && defined $value && ref $value ne 'ARRAY';

        return indexed($value, $i);
    };

    check_code($block, $name, $res, $want);
    check_headers($name, $res, $want);
    check_body($block, $name, $res, $want, $i);
}


sub check_code {
    my ($block, $name, $res, $want) = @_;

    my $code = $res->{code} // '';

    if (defined $block->error_code_like) {
        my $like = $want->('error_code_like');
        Test::More::like($code, qr/$like/sm, "$name - status code");

    } else {
        my $expected = defined $block->error_code ? $want->('error_code')
                                                  : 200;
        $expected =~ s/^\s+|\s+$//g if defined $expected;
        Test::More::is($code, $expected, "$name - status code");
    }
}


# "Name: value" lines; "!Name" means that the field is absent.

sub header_list {
    my ($text) = @_;
    my @list;

    for my $line (split /\n/, $text // '') {
        $line =~ s/^\s+|\s+$//g;
        next if $line eq '';

        if ($line =~ s/^!\s*//) {
            push @list, [$line, undef];
        } else {
            my ($key, $value) = split /\s*:\s*/, $line, 2;
            push @list, [$key, $value // ''];
        }
    }

    return @list;
}


sub check_headers {
    my ($name, $res, $want) = @_;

    for my $pair (header_list($want->('response_headers'))) {
        my ($key, $value) = @$pair;
        my $got = Clawd::Runner::Http::header($res, $key);

        if (!defined $value) {
            Test::More::is($got, undef, "$name - no header $key");
            next;
        }

        $value =~ s/\$ServerPort(?:ForClient)?\b/$port/g;
        Test::More::is($got // '', $value, "$name - header $key");
    }

    for my $pair (header_list($want->('response_headers_like'))) {
        my ($key, $like) = @$pair;
        my $got = Clawd::Runner::Http::header($res, $key) // '';

        Test::More::like($got, qr/^$like$/, "$name - header $key");
    }

    if (defined(my $like = $want->('raw_response_headers_like'))) {
        Test::More::like($res->{raw_headers}, qr/$like/s,
                         "$name - raw headers like");
    }

    if (defined(my $unlike = $want->('raw_response_headers_unlike'))) {
        Test::More::unlike($res->{raw_headers}, qr/$unlike/s,
                           "$name - raw headers unlike");
    }
}


sub check_body {
    my ($block, $name, $res, $want, $i) = @_;

    my $body = $res->{body};

    if (defined $block->response_body) {
        my $expected = $want->('response_body');

        if (!ref $expected) {
            $expected =~ s/\$ServerPort(?:ForClient)?\b/$port/g;
            $expected = expand($expected, $name);
        }

        is_str($body, $expected, "$name - response body");

    } elsif (defined $block->response_body_like) {
        my $like = $want->('response_body_like');
        Test::More::like($body, qr/$like/s, "$name - response body like");

    } elsif (defined $block->response_body_unlike) {
        my $unlike = $want->('response_body_unlike');
        Test::More::unlike($body, qr/$unlike/s,
                           "$name - response body unlike");
    }

    $_->($block, $body, $i, $rounds, 0) for @body_checks;
}


# Logs


# The patterns of a section: lines of text, one pattern or a list.

sub patterns {
    my ($value) = @_;

    return () if !defined $value;
    return @$value if ref $value eq 'ARRAY';
    return $value if ref $value;
    return grep { length } split /\n+/, $value;
}


sub matches {
    my ($line, $pattern) = @_;
    return ref $pattern ? $line =~ /$pattern/ : index($line, $pattern) >= 0;
}


# What must be there is waited for.  What must not be there cannot be: a
# moment is left for the log phase, which runs after the answer.

sub check_logs {
    my ($block, $name) = @_;

    sleep 0.045;
    check_log($block, $name, 'error', 'error_log', 0);
    check_log($block, $name, 'access', 'access_log', 0)
        if !defined $block->ignore_response;
    check_grep($block, $name);
    check_log($block, $name, 'error', 'no_error_log', 1);
    check_log($block, $name, 'access', 'no_access_log', 1)
        if !defined $block->ignore_response;
    $nginx->mark_lines;
}


sub check_log {
    my ($block, $name, $log, $section, $absent) = @_;

    my @patterns = patterns(scalar $block->$section);
    my $limit = time + $patience;

    for my $pattern (@patterns) {
        my ($found) = grep { matches($_, $pattern) } @{ $nginx->new_lines($log) };

        while (!$absent && !defined $found && time < $limit) {
            sleep 0.02;
            ($found) = grep { matches($_, $pattern) }
                            @{ $nginx->new_lines($log) };
        }

        if ($absent) {
            Test::More::ok(!defined $found,
                           "$name - \"$pattern\" is in no line of $log.log")
                or Test::More::diag($found);
        } else {
            Test::More::ok(defined $found,
                           "$name - \"$pattern\" is in a line of $log.log");
        }
    }
}


sub check_grep {
    my ($block, $name) = @_;

    my $pattern = indexed(scalar $block->grep_error_log, $rounds) // return;
    my $out = indexed(scalar $block->grep_error_log_out, $rounds);

    bail_out("$name - --- grep_error_log lacks grep_error_log_out")
        if !defined $out;

    $out = expand($out, $name) if !ref $out;
    my $limit = time + $patience;
    my $got;

    while (1) {
        $got = '';

        for my $line (@{ $nginx->new_lines('error') }) {
            my $hit = ref $pattern ? $line =~ /$pattern/
                                   : $line =~ /\Q$pattern\E/;
            $got .= "$&\n" if $hit && $& !~ /\n/;
        }

        last if time >= $limit || (ref $out ? $got =~ $out : $got eq $out);
        sleep 0.02;
    }

    is_str($got, $out, "$name - grep_error_log_out");
}


# No block may leave an alert or a sanitizer's report behind, unless its own
# error_log section names that level.

sub check_complaints {
    my ($block, $name, $no_emerg) = @_;

    my $expected = join ' ', patterns(scalar $block->error_log);
    my @levels = grep { index($expected, "[$_") < 0 } qw(alert emerg);
    @levels = grep { $_ ne 'emerg' } @levels if $no_emerg;

    my @found = $nginx->complaints(@levels);
    complain($name, 'alerts or sanitizer reports', @found) if @found;
}


# The scripted TCP server of a block: one connection per round.


sub start_tcp {
    my ($block, $name) = @_;

    return if !defined $block->tcp_listen;

    my $target = expand($block->tcp_listen, $name);
    $target =~ s/\s+//g;

    bail_out("$name - --- tcp_listen lacks a --- tcp_reply")
        if !defined $block->tcp_reply && !defined $block->tcp_shutdown;

    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $target, Proto => 'tcp',
        ReuseAddr => 1, Listen => 5)
        or bail_out("$name - cannot listen on port $target: $!");

    my $file = "$nginx->{root}/tcp_query";
    unlink $file;

    my $pid = fork // die "cannot fork: $!\n";

    if ($pid == 0) {
        eval { serve_tcp($block, $listen, $file) };
        print STDERR "$name - tcp server: $@" if $@;
        POSIX::_exit(0);
    }

    close $listen;
    $tcp = { pid => $pid, file => $file };
}


sub serve_tcp {
    my ($block, $listen, $file) = @_;

    $SIG{INT} = $SIG{TERM} = $SIG{HUP} = 'DEFAULT';
    $SIG{PIPE} = 'IGNORE';

    my $client = $listen->accept or die "accept: $!\n";
    my ($query, $reply) = ('', $block->tcp_reply);
    my $want = $block->tcp_query_len;
    $want = length $block->tcp_query
        if !defined $want && defined $block->tcp_query && !ref $block->tcp_query;

    my $how = $block->tcp_shutdown;
    shutdown $client, $how if defined $how;

    while (!defined $how || $how == 1) {
        my $n = sysread $client, $query, 65536, length $query;
        last if !$n;

        Clawd::Runner::Server::write_file("$file.new", $query);
        rename "$file.new", $file;
        last if !$want || length $query >= $want;
    }

    my $delay = seconds(scalar $block->tcp_reply_delay);
    sleep $delay if $delay;

    $reply = $reply->($query) if ref $reply eq 'CODE';

    if (!defined $how || $how == 0) {
        for my $part (ref $reply ? @$reply : $reply // ()) {
            $client->send($part);
        }
    }

    sleep 1 while defined $block->tcp_no_close;
    close $client;
}


sub check_tcp_query {
    my ($block, $name) = @_;

    return if !$tcp;

    my $query = Clawd::Runner::Server::read_file($tcp->{file});

    is_str($query, $block->tcp_query, "$name - tcp_query")
        if defined $block->tcp_query;

    Test::More::is(length $query, $block->tcp_query_len + 0,
                   "$name - tcp_query_len")
        if defined $block->tcp_query_len;
}


sub stop_tcp {
    return if !$tcp;

    kill 'KILL', $tcp->{pid};
    waitpid $tcp->{pid}, 0;
    undef $tcp;
}


1;
