package Clawd::Upstream;

# Scripted HTTP upstreams for the blocks of a test file.  Works under the
# genuine Test::Nginx::Socket and under the runner here.  t/lib/README.md has
# the sections and an example.
#
# An upstream listens as long as the test file runs.  For each block a new
# server process is forked with that block's script; it forks once for each
# connection.  What it received and how each answer ended are files below a
# temporary folder, which both sides read without any other channel.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP SO_LINGER SOL_SOCKET TCP_NODELAY);
use Test::More ();
use Time::HiRes qw(sleep time);

# How long a script waits for a gate, and a check for a state.

my $patience = $ENV{TEST_NGINX_PATIENCE} || 10;

my $fixtures = abs_path(dirname(abs_path(__FILE__)) . '/../../fixtures');
my %upstreams;
my $owner = $$;


# use Clawd::Upstream;               one upstream, named "upstream"
# use Clawd::Upstream qw(one two);   others
#
# Each name makes an environment variable, $TEST_NGINX_UPSTREAM_PORT and so
# on, and a family of sections: --- NAME, --- NAME_count, ...

sub import {
    my ($class, @names) = @_;

    Test::Nginx::Socket->can('run_tests')
        or die "use Test::Nginx::Socket before Clawd::Upstream\n";

    no strict 'refs';
    my $caller = caller;
    *{"${caller}::$_"} = \&$_ for qw(chunk fixture reply sse stream upstream);

    for my $name (@names ? @names : 'upstream') {
        $upstreams{$name} //= $class->new($name);
    }
}


sub upstream {
    my ($name) = @_;

    return $upstreams{ $name // 'upstream' }
           // die 'no upstream "' . ($name // 'upstream') . "\"\n";
}


sub new {
    my ($class, $name) = @_;

    $name =~ /^[a-z][a-z0-9_]*$/ or die "bad upstream name \"$name\"\n";

    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp',
        Listen => 128) or die "upstream cannot listen: $!\n";

    my $self = bless {
        name => $name, listen => $listen, port => $listen->sockport,
        dir => tempdir('clawd-upstream-XXXXXX', TMPDIR => 1, CLEANUP => 1),
        seen => 0,
    }, $class;

    $ENV{ 'TEST_NGINX_' . uc($name) . '_PORT' } = $self->{port};

    my $known = Test::Nginx::Socket->can('known_sections');
    $known->($name, map { "${name}_$_" } qw(count body body_like request_like
                                            request_unlike event))
        if $known;

    Test::Nginx::Socket::add_block_preprocessor(sub { $self->prepare(@_) });
    Test::Nginx::Socket::add_response_body_check(sub { $self->check(@_) });

    return $self;
}


# Parts of scripts


# reply(STATUS, BODY, HEADERS...): a complete answer with its length.

sub reply {
    my ($status, $body, @headers) = @_;

    my $head = "HTTP/1.1 $status X\r\nContent-Length: " . length($body)
               . "\r\n";

    while (my ($key, $value) = splice @headers, 0, 2) {
        $head .= "$key: $value\r\n";
    }

    $head .= "Content-Type: application/json\r\n"
        if $head !~ /^Content-Type:/mi;

    return "$head\r\n$body";
}


# stream(TYPE, HEADERS...): the header of a chunked answer; chunk(BYTES...) is
# one chunk each, and chunk() the end.  sse(DATA...) are chunks that carry one
# "data:" event each.

sub stream {
    my ($type, @headers) = @_;

    my $head = "HTTP/1.1 200 OK\r\nContent-Type: $type\r\n"
               . "Transfer-Encoding: chunked\r\n";

    while (my ($key, $value) = splice @headers, 0, 2) {
        $head .= "$key: $value\r\n";
    }

    return "$head\r\n";
}

sub chunk {
    return "0\r\n\r\n" if !@_;
    return map { sprintf "%x\r\n%s\r\n", length, $_ } @_;
}

sub sse {
    return map { chunk("data: $_\n\n") } @_;
}


# fixture(NAME, OPTIONS): the recorded response t/fixtures/NAME.http as a list
# of pieces: at => [offsets], size => bytes a piece, pause => seconds between
# pieces (0.002), cut => how many bytes to send at all.

sub fixture {
    my ($name, %opt) = @_;

    my $bytes = slurp("$fixtures/$name.http");
    die "no fixture $name\n" if $bytes eq '';

    $bytes = substr $bytes, 0, $opt{cut} if defined $opt{cut};

    my @at = $opt{at} ? @{ $opt{at} }
           : $opt{size} ? map { $_ * $opt{size} }
                              1 .. int((length($bytes) - 1) / $opt{size})
           : ();
    my ($from, @steps) = (0);

    for my $to (@at, length $bytes) {
        push @steps, substr($bytes, $from, $to - $from),
                     { pause => $opt{pause} // 0.002 };
        $from = $to;
    }

    pop @steps;
    return @steps;
}


# What the test asks


# requests(): what has arrived since the block began, oldest first, as hashes
# { raw, method, uri, headers => { lower case name => value }, body }.

sub requests {
    my ($self) = @_;

    return map { parse_request(slurp("$_/request")) }
           grep { -e "$_/request" } $self->slots;
}

sub slots {
    my ($self) = @_;
    my ($i, @slots) = (1);

    while (-d "$self->{dir}/$i") {
        push @slots, "$self->{dir}/$i";
        $i++;
    }

    return @slots;
}


# event(N): how request N (from 1) ended: "answered", "aborted" (the peer left
# before the script was through) or "" as long as it runs.

sub event {
    my ($self, $n) = @_;
    return slurp("$self->{dir}/$n/event");
}


# wait_for(N, EVENT): waits until request N arrived or, with EVENT, ended so.
# Returns false when it does not come to that.

sub wait_for {
    my ($self, $n, $event) = @_;
    my $limit = time + $patience;

    while (time < $limit) {
        return 1 if defined $event ? $self->event($n) eq $event
                                   : -e "$self->{dir}/$n/request";
        sleep 0.005;
    }

    return 0;
}


# Gates hold a script until the test lets it go on.

sub open_gate {
    my ($self, $gate) = @_;
    write_file("$self->{dir}/gate.$gate", '');
}


# Sections


sub prepare {
    my ($self, $block) = @_;

    $self->stop;
    remove_tree($self->{dir}, { keep_root => 1 });
    $self->{seen} = 0;

    my $name = $self->{name};
    my $script = $block->$name // [reply(500, 'no script for this block')];

    $self->start($script);
}


sub start {
    my ($self, $script) = @_;

    my $pid = fork // die "cannot fork: $!\n";

    if ($pid == 0) {
        @SIG{qw(INT TERM HUP __DIE__)} = ('DEFAULT') x 4;
        $SIG{PIPE} = 'IGNORE';
        $SIG{CHLD} = 'IGNORE';
        setpgrp;
        $self->serve($script);
        POSIX::_exit(0);
    }

    # Both sides set the group, so that it exists before anybody kills it.

    POSIX::setpgid($pid, $pid);
    $self->{pid} = $pid;
}


sub stop {
    my ($self) = @_;

    my $pid = delete $self->{pid} // return;

    kill 'KILL', -$pid;
    waitpid $pid, 0;
}


sub END {
    return if $$ != $owner;

    my $status = $?;
    $_->stop for values %upstreams;
    $? = $status;
}


# Runs after the response of each request was read.

sub check {
    my ($self, $block) = @_;

    my $title = $block->name . " - $self->{name}";
    my $of = sub { my $section = "$self->{name}_$_[0]"; $block->$section };

    if (defined(my $count = $of->('count'))) {
        $self->wait_for($self->{seen} + $count) if $count > 0;
        my $got = () = $self->requests;
        Test::More::is($got - $self->{seen}, $count + 0, "$title count");
    }

    my @needs = grep { defined $of->($_) }
                     qw(body body_like request_like request_unlike event);

    if (@needs) {
        $self->wait_for($self->{seen} + 1);
    }

    my @requests = $self->requests;
    my $last = @requests > $self->{seen} ? $requests[-1]
                                         : { raw => '', body => '' };

    for my $section (@needs) {
        my $want = $of->($section);
        my $name = "$title $section";

        if ($section eq 'body') {
            Test::More::is($last->{body}, $want, $name);

        } elsif ($section eq 'body_like') {
            Test::More::like($last->{body}, qr/$want/s, $name);

        } elsif ($section eq 'request_like') {
            Test::More::like($last->{raw}, qr/$want/sm, $name);

        } elsif ($section eq 'request_unlike') {
            Test::More::ok($last->{raw} ne '' && $last->{raw} !~ /$want/sm,
                           $name) or Test::More::diag($last->{raw});

        } else {
            $want =~ s/\s+//g;
            $self->wait_for(scalar @requests, $want);
            Test::More::is($self->event(scalar @requests), $want, $name);
        }
    }

    $self->{seen} = @requests;
}


# The server


sub serve {
    my ($self, $script) = @_;

    while (1) {
        my $sock = $self->{listen}->accept or next;
        my $pid = fork;

        if (defined $pid && $pid == 0) {
            close $self->{listen};
            $SIG{CHLD} = 'DEFAULT';
            setsockopt $sock, IPPROTO_TCP, TCP_NODELAY, 1;
            eval { $self->converse($sock, $script); 1 }
                or print STDERR "upstream $self->{name}: $@";
            POSIX::_exit(0);
        }

        close $sock;
    }
}


# All requests of one connection.

sub converse {
    my ($self, $sock, $script) = @_;
    my $buffer = '';

    while (defined(my $raw = read_request($sock, \$buffer))) {
        my $n = $self->record($raw);
        my $request = parse_request($raw);
        my $answer = { sock => $sock, sent => '', n => $n };

        my $done = eval {
            $self->play($answer, steps_for($script, $request, $n), $request);
            1;
        };

        if (!$done) {
            my $why = $@;
            die $why if $why !~ /^(?:peer gone|finished)$/;
            $self->note($n, $why =~ /gone/ ? 'aborted' : 'answered');
            return;
        }

        # NGINX may take its time with the rest: the connection closes only
        # when it has to, and then with everything delivered.

        $self->note($n, 'answered');

        if (!keeps_open($answer->{sent}, $raw)) {
            shutdown $sock, 1;
            sysread $sock, my $rest, 4096;
            return;
        }
    }
}


# A script is a string, a sub, a list of steps, a list of such lists for the
# first, second, ... request (the last one serves the rest), or a hash of all
# these by path.

sub steps_for {
    my ($script, $request, $n) = @_;

    if (ref $script eq 'HASH') {
        my ($path) = $request->{uri} =~ /^([^?]*)/;
        $script = $script->{$path} // $script->{'*'}
                  // [reply(404, "no script for $path")];
    }

    return [$script] if ref $script ne 'ARRAY';
    return $script if ref($script->[0] // '') ne 'ARRAY';
    return $script->[ $n > @$script ? -1 : $n - 1 ];
}


sub play {
    my ($self, $answer, $steps, $request) = @_;

    for my $step (@$steps) {
        if (!ref $step) {
            send_bytes($answer, $step);

        } elsif (ref $step eq 'CODE') {
            my @more = $step->($request, $answer->{n});
            $self->play($answer, \@more, $request);

        } else {
            $self->special($answer, %$step);
        }
    }
}


sub special {
    my ($self, $answer, $what, $value) = @_;
    my $sock = $answer->{sock};

    if ($what eq 'pause') {
        hold($sock, $value);

    } elsif ($what eq 'gate') {
        my $limit = time + $patience;

        while (!-e "$self->{dir}/gate.$value") {
            hold($sock, 0.003);
            die "the gate $value stays shut\n" if time > $limit;
        }

    } elsif ($what eq 'stall') {
        hold($sock, 3600);

    } elsif ($what eq 'close') {
        close $sock;
        die "finished\n";

    } elsif ($what eq 'reset') {
        setsockopt $sock, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
        close $sock;
        die "finished\n";

    } else {
        die "unknown step $what\n";
    }
}


sub send_bytes {
    my ($answer, $bytes) = @_;

    $answer->{sent} .= substr $bytes, 0, 4096 if length $answer->{sent} < 4096;

    while (length $bytes) {
        my $n = syswrite $answer->{sock}, $bytes;

        if (!defined $n) {
            next if $!{EINTR};
            die "peer gone\n";
        }

        substr $bytes, 0, $n, '';
    }
}


# hold(SOCK, SECONDS): waits, and notices when the peer leaves.  Bytes of a
# next request, which nobody sends before this answer, would stay unread.

sub hold {
    my ($sock, $seconds) = @_;

    my $select = IO::Select->new($sock);
    my $limit = time + $seconds;

    while ((my $left = $limit - time) > 0) {
        next if !$select->can_read($left);

        my $n = sysread $sock, my $byte, 1;
        die "peer gone\n" if !$n;
    }
}


sub keeps_open {
    my ($sent, $raw) = @_;

    my ($head) = $sent =~ /\A(.*?\r\n)\r\n/s or return 0;

    return 0 if $head =~ /^Connection:\s*close/mi
             || $raw =~ /\A[^\r\n]*HTTP\/1\.0\r\n/
             || $raw =~ /\A.*?^Connection:\s*close\r\n.*?^\r\n/msi;

    return $head =~ /^(?:Content-Length|Transfer-Encoding):/mi;
}


# Each request takes the next free number; making a folder is atomic.

sub record {
    my ($self, $raw) = @_;
    my $n = 1;

    $n++ while !mkdir "$self->{dir}/$n";

    write_file("$self->{dir}/$n/request.new", $raw);
    rename "$self->{dir}/$n/request.new", "$self->{dir}/$n/request";
    return $n;
}

sub note {
    my ($self, $n, $event) = @_;

    write_file("$self->{dir}/$n/event.new", $event);
    rename "$self->{dir}/$n/event.new", "$self->{dir}/$n/event";
}


# read_request(SOCK, BUFFER): one whole request, or undef at the end.

sub read_request {
    my ($sock, $buffer) = @_;

    while (1) {
        my $length = request_length($$buffer);

        return substr $$buffer, 0, $length, ''
            if defined $length && length $$buffer >= $length;

        my $n = sysread $sock, $$buffer, 65536, length $$buffer;
        return undef if !$n;
    }
}


# The length of the request at the front, undef while that is unknown.

sub request_length {
    my ($bytes) = @_;

    my ($head) = $bytes =~ /\A(.*?\r\n\r\n)/s or return undef;

    return length($head) + $1
        if $head =~ /^Content-Length:\s*(\d+)/mi;
    return length $head
        if $head !~ /^Transfer-Encoding:\s*chunked/mi;

    return $bytes =~ /\A\Q$head\E(?:.*?\r\n)?0\r\n\r\n/s ? $+[0] : undef;
}


sub parse_request {
    my ($raw) = @_;

    my ($line, $fields, $body) =
        $raw =~ /\A([^\r\n]*)\r\n((?:[^\r\n]+\r\n)*)\r\n(.*)\z/s;
    my ($method, $uri) = split ' ', $line // '';
    my %headers;

    for my $field (split /\r\n/, $fields // '') {
        my ($key, $value) = split /:\s*/, $field, 2;
        $key = lc $key;
        $headers{$key} = defined $headers{$key} ? "$headers{$key}, $value"
                                                : $value;
    }

    return { raw => $raw, method => $method, uri => $uri,
             headers => \%headers, body => $body // '' };
}


sub slurp {
    my ($path) = @_;

    open my $in, '<', $path or return '';
    binmode $in;
    local $/;
    return scalar(<$in>) // '';
}

sub write_file {
    my ($path, $text) = @_;

    open my $out, '>', $path or die "cannot write $path: $!\n";
    binmode $out;
    print $out $text;
    close $out or die "cannot write $path: $!\n";
}


1;
