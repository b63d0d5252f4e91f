package Clawd::Runner::Http;

# The HTTP client of the runner: builds requests out of the text of a block,
# sends them in the given pieces, and takes answers apart.  It knows nothing
# of blocks and expectations.

use strict;
use warnings;

use Errno qw(EAGAIN EINTR EINPROGRESS);
use IO::Select;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(sleep time);


# The lines of a more_headers section as they go on the wire, and whether the
# body is sent chunked by the author of the block.

sub header_lines {
    my ($text) = @_;
    my ($out, $chunked) = ('', 0);

    for my $line (split /\n+/, $text // '') {
        next if $line =~ /^\s*#/;

        my ($key, $value) = split /:\s*/, $line, 2;
        $value //= '';

        $chunked = 1
            if lc $key eq 'transfer-encoding' && $value eq 'chunked';

        $out .= "$key: $value\r\n";
    }

    return ($out, $chunked);
}


# build(PIECES, MORE_HEADERS, CONNECTION) completes a request written as a
# short text: adds the version, Host, Connection and Content-Length where they
# are missing.  PIECES is a list of { value, delay_before }; the answer has
# the same pieces, cut at the same places of the completed text.

sub build {
    my ($pieces, $more_headers, $connection) = @_;

    my $text = join '', map { $_->{value} } @$pieces;
    my ($line, $body) = $text =~ /\A([^\n]*\n?)(.*)\z/s;

    my ($method, $uri, $version) = $line =~ /^\s*(\S+)(?: +(\S+))?(?: +(\S+))?\s*$/
        or die "bad request line: $line\n";

    $uri     //= '/';
    $version //= 'HTTP/1.1';

    my ($more, $chunked) = header_lines($more_headers);
    my $length = '';

    if (!$chunked && $body ne '' && $more !~ /(?:^|\n)Content-Length:/) {
        $body =~ s/\A\s+//;
        $body =~ s/\s+\z//;
        $length = 'Content-Length: ' . length($body) . "\r\n";
    }

    my $head = "$method $uri $version\r\n";
    $head .= "Host: localhost\r\n" if $more !~ /(?:^|\n)Host:/i;
    $head .= "Connection: $connection\r\n" if $more !~ /(?:^|\n)Connection/i;
    $head .= "$more$length\r\n";

    my $whole = $head . $body;
    my ($from, $at, @out) = (0, 0);

    for my $i (0 .. $#$pieces) {
        $at += length $pieces->[$i]{value};

        my $to = $at <= length($line) - 1 ? $at
               : length($head) + $at - length($line);

        $to = length $whole if $i == $#$pieces || $to > length $whole;

        push @out, { %{ $pieces->[$i] },
                     value => substr($whole, $from, $to - $from) };
        $from = $to;
    }

    return \@out;
}


# exchange(PORT, PIECES, OPTIONS) sends the pieces and reads until the server
# closes.  Returns { raw, timed_out, error }.  Options: addr, timeout (seconds
# without any progress), middle_delay, shutdown.

sub exchange {
    my ($port, $pieces, $opt) = @_;

    my $sock = connect_to($opt->{addr} // '127.0.0.1', $port, $opt->{timeout})
        or return { raw => '', error => "cannot connect to port $port: $!" };

    my $answer = { raw => '' };
    my @left   = @$pieces;
    my $buf    = (shift @left)->{value};
    my $sel    = IO::Select->new($sock);

    local $SIG{PIPE} = 'IGNORE';

    while (1) {
        my ($r, $w) = IO::Select->select($sel, defined $buf ? $sel : undef,
                                         undef, $opt->{timeout});

        if (!$r && !$w) {
            next if $!{EINTR};
            $answer->{timed_out} = 1;
            last;
        }

        if (@$r) {
            my $n = sysread $sock, $answer->{raw}, 65536,
                            length $answer->{raw};

            if (!defined $n) {
                next if $!{EAGAIN} || $!{EINTR};
                $answer->{error} = "read failed: $!";
                last;
            }

            last if $n == 0;
        }

        next if !@$w;

        my $n = syswrite $sock, $buf;

        if (!defined $n) {
            next if $!{EAGAIN} || $!{EINTR};
            $answer->{error} = "write failed: $!";
            undef $buf;
            next;
        }

        substr $buf, 0, $n, '';
        next if length $buf;

        my $next = shift @left;
        $buf = $next ? $next->{value} : undef;

        if ($next) {
            my $delay = $next->{delay_before} // $opt->{middle_delay};
            sleep $delay if $delay;

        } elsif (defined $opt->{shutdown}) {
            shutdown $sock, $opt->{shutdown};
        }
    }

    close $sock;
    return $answer;
}


# connect_to(ADDR, PORT, TIMEOUT): a non-blocking connected socket, or undef.

sub connect_to {
    my ($addr, $port, $timeout) = @_;

    my $sock = IO::Socket::INET->new(
        PeerAddr => $addr, PeerPort => $port, Proto => 'tcp',
        Timeout  => $timeout) or return undef;

    $sock->blocking(0);
    setsockopt $sock, IPPROTO_TCP, TCP_NODELAY, 1;
    return $sock;
}


# parse(RAW, METHOD) takes one response off the front of RAW.  Returns { code,
# headers => [[name, value], ...], raw_headers, body, left, error }; error
# says what is wrong with the framing.

sub parse {
    my ($raw, $method) = @_;

    my $res = { headers => [], raw_headers => '', body => '', left => '' };

    if ($raw !~ /\A(.*?\r\n)\r\n/s) {
        $res->{error} = 'no response header' if $raw ne '';
        return $res;
    }

    $res->{raw_headers} = $1;
    my $rest = substr $raw, length($1) + 2;

    ($res->{code}) = $res->{raw_headers} =~ m{\AHTTP/\d\S*\s+(\d{3})\b};

    for my $line (split /\r?\n/, $res->{raw_headers}) {
        push @{ $res->{headers} }, [$1, $2]
            if $line =~ /^([^\s:]+):\s*(.*?)\s*$/;
    }

    my $code = $res->{code} // 0;

    if ($code == 100) {
        return parse($rest, $method);
    }

    if ($method eq 'HEAD' || $code == 101 || $code == 204 || $code == 304) {
        $res->{left} = $rest;
        return $res;
    }

    if (lc(header($res, 'Transfer-Encoding') // '') eq 'chunked') {
        dechunk($res, $rest);
        return $res;
    }

    my $length = header($res, 'Content-Length');

    if (defined $length && length $rest < $length) {
        $res->{truncated} = "$length bytes expected, got " . length $rest;
    }

    if (defined $length && length $rest > $length) {
        $res->{left} = substr $rest, $length, length($rest), '';
    }

    $res->{body} = $rest;
    return $res;
}


# header(RES, NAME): all fields of that name joined by ", ", or undef.

sub header {
    my ($res, $name) = @_;

    my @values = map { $_->[1] }
                 grep { lc $_->[0] eq lc $name } @{ $res->{headers} };

    return @values ? join(', ', @values) : undef;
}


# Trailers are accepted only when a Trailer field announces them.

sub dechunk {
    my ($res, $raw) = @_;

    my $trailers = defined header($res, 'Trailer');
    my $pos = 0;

    while (substr($raw, $pos) =~ /\A([0-9A-Fa-f]+)[ \t]*\r\n/) {
        my $size = hex $1;
        $pos += length $&;

        if ($size == 0) {
            my $tail = substr $raw, $pos;

            if ($tail =~ /\A\r\n/
                || ($trailers && $tail =~ /\A(?:[^\s:]+:[^\n]*\r\n)+\r\n/))
            {
                $res->{left} = substr $tail, length $&;
                return;
            }

            last;
        }

        if (length($raw) < $pos + $size + 2
            || substr($raw, $pos + $size, 2) ne "\r\n")
        {
            $res->{body} .= substr $raw, $pos, $size;
            $res->{error} = 'a chunk is cut short';
            return;
        }

        $res->{body} .= substr $raw, $pos, $size;
        $pos += $size + 2;
    }

    $res->{error} = 'the chunked body has no end';
}


1;
