package Clawd::Client;

# For what a block cannot say in sections: a client whose every byte the test
# controls, and the running NGINX itself.  Called from a --- init section,
# which both runners evaluate after NGINX started and before the block's own
# request.

use strict;
use warnings;

use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP SO_LINGER SOL_SOCKET TCP_NODELAY);
use Test::Nginx::Socket ();
use Time::HiRes qw(sleep time);

our @EXPORT = qw(client curl error_log nginx_pid reload_nginx wait_until
                 worker_pids);

my $patience = $ENV{TEST_NGINX_PATIENCE} || 10;


# client(PORT): a connection, to the block's server when no port is given.

sub client {
    my ($port) = @_;

    my $sock = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1',
        PeerPort => $port // $ENV{TEST_NGINX_SERVER_PORT},
        Proto    => 'tcp', Timeout => $patience) or die "connect: $!\n";

    setsockopt $sock, IPPROTO_TCP, TCP_NODELAY, 1;
    return bless { sock => $sock, buffer => '' }, __PACKAGE__;
}


sub send {
    my ($self, @bytes) = @_;

    local $SIG{PIPE} = 'IGNORE';
    my $bytes = join '', @bytes;

    while (length $bytes) {
        my $n = syswrite $self->{sock}, $bytes;
        return 0 if !defined $n && !$!{EINTR};
        substr $bytes, 0, $n // 0, '';
    }

    return 1;
}


# request(METHOD, URI, BODY, HEADERS...): sends a whole HTTP/1.1 request.

sub request {
    my ($self, $method, $uri, $body, @headers) = @_;

    my $text = "$method $uri HTTP/1.1\r\nHost: localhost\r\n";
    $text .= 'Content-Length: ' . length($body) . "\r\n" if defined $body;

    while (my ($key, $value) = splice @headers, 0, 2) {
        $text .= "$key: $value\r\n";
    }

    return $self->send("$text\r\n", $body // '');
}


# read_until(PATTERN): what came up to and including the match, removed from
# the buffer; undef when the server closed or nothing more came before that.

sub read_until {
    my ($self, $pattern, $seconds) = @_;
    my $limit = time + ($seconds // $patience);

    while (1) {
        return substr $self->{buffer}, 0, $+[0], ''
            if $self->{buffer} =~ $pattern;
        return undef if !$self->fill($limit);
    }
}


# read_all(): the rest, up to the end of the connection; undef if the server
# does not close.

sub read_all {
    my ($self, $seconds) = @_;
    my $limit = time + ($seconds // $patience);

    1 while $self->fill($limit);
    return undef if !$self->{closed};
    return $self->{buffer};
}


sub fill {
    my ($self, $limit) = @_;

    my $left = $limit - time;
    return 0 if $self->{closed} || $left <= 0;
    return 0 if !IO::Select->new($self->{sock})->can_read($left);

    my $n = sysread $self->{sock}, $self->{buffer}, 65536,
                    length $self->{buffer};

    $self->{reset} = 1 if !defined $n;
    $self->{closed} = 1 if !$n;
    return $n;
}


# close() is polite, reset() is not.

sub close {
    my ($self) = @_;
    CORE::close $self->{sock};
}

sub reset {
    my ($self) = @_;

    setsockopt $self->{sock}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
    CORE::close $self->{sock};
}


# curl(ARGUMENTS...): runs curl; returns { code, header, body, exit }.

sub curl {
    my (@arguments) = @_;

    open my $pipe, '-|', 'curl', '-sSi', '--max-time', $patience, @arguments
        or die "cannot run curl: $!\n";
    binmode $pipe;
    my $raw = do { local $/; <$pipe> } // '';
    CORE::close $pipe;

    my ($header, $body) = $raw =~ /\A(.*?\r\n)\r\n(.*)\z/s;
    my ($code) = ($header // '') =~ m{\AHTTP/\S+ (\d+)};

    return { code => $code // 0, header => $header // '',
             body => $body // '', exit => $? >> 8 };
}


# wait_until(SUB, SECONDS): true as soon as SUB is true.

sub wait_until {
    my ($true, $seconds) = @_;
    my $limit = time + ($seconds // $patience);

    while (1) {
        return 1 if $true->();
        return 0 if time > $limit;
        sleep 0.01;
    }
}


sub logs {
    return Test::Nginx::Socket::server_root() . '/logs';
}


# error_log(): the text of the error log so far.

sub error_log {
    open my $in, '<', logs() . '/error.log' or return '';
    local $/;
    return scalar(<$in>) // '';
}


sub nginx_pid {
    open my $in, '<', logs() . '/nginx.pid' or return undef;
    return int(scalar(<$in>) // 0);
}


# worker_pids(): the workers of a master (master_on), in no order; those that
# only finish their last requests after a reload are among them.

sub worker_pids {
    my $master = nginx_pid() or return;

    open my $in, '<', "/proc/$master/task/$master/children" or return;
    return split ' ', scalar(<$in>) // '';
}


# reload_nginx(): returns true once the new workers serve; the old ones may
# still finish their requests.

sub reload_nginx {
    my %old = map { $_ => 1 } worker_pids();

    kill 'HUP', nginx_pid() or return 0;

    return wait_until(sub {
        my @new = grep { !$old{$_} && named_worker($_) } worker_pids();
        my @left = grep { $old{$_} && named_worker($_, 'only') } keys %old;
        return @new && !@left;
    });
}


# A worker names itself when it is about to serve, and again when it is
# shutting down.

sub named_worker {
    my ($pid, $serving) = @_;

    open my $in, '<', "/proc/$pid/cmdline" or return 0;
    my $name = <$in> // '';
    return $serving ? $name =~ /worker process\0*$/
                    : $name =~ /worker process/;
}


1;
