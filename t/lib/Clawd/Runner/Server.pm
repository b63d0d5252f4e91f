package Clawd::Runner::Server;

# One NGINX under test: its folder, its configuration file, its start and its
# end, and what it left in its logs.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(make_path remove_tree);
use File::Spec;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);


# ASAN makes an NGINX several times slower to start and to stop.

my $start_limit = 30;
my $stop_limit  = 10;

my $suppressions = dirname(abs_path(__FILE__)) . '/../../lsan.supp';
my %taken;


# free_port(): a TCP port of 127.0.0.1 that nobody uses, reserved for this
# process against other runners by an abstract socket that the kernel drops
# at exit.  It stays out of the range of outgoing connections.

sub free_port {
    for (1 .. 1000) {
        my $port = 10240 + int rand 22000;
        next if $taken{$port};

        my $claim = IO::Socket::UNIX->new(
            Local => "\0clawd-test-port-$port", Listen => 1) or next;

        my $probe = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1', LocalPort => $port,
            Proto => 'tcp', Listen => 1, ReuseAddr => 1) or next;
        close $probe;

        $taken{$port} = $claim;
        return $port;
    }

    die "no free port\n";
}


sub new {
    my ($class, %arg) = @_;

    my $root = File::Spec->rel2abs($arg{root});

    return bless {
        binary => $arg{binary}, root => $root,
        conf   => "$root/conf/nginx.conf", html => "$root/html",
        errors => "$root/logs/error.log", access => "$root/logs/access.log",
        pid    => "$root/logs/nginx.pid", stderr => "$root/logs/stderr.log",
    }, $class;
}


sub version {
    my ($self) = @_;

    my $text = `$self->{binary} -v 2>&1`;
    $text =~ m{nginx/(\d+)\.(\d+)\.(\d+)}
        or die "cannot run \"$self->{binary} -v\": $text\n";

    return sprintf '%d.%03d%03d', $1, $2, $3;
}


# A fresh folder for the next block.

sub prepare {
    my ($self) = @_;

    $self->remove;
    make_path(map { "$self->{root}/$_" } qw(conf html logs));

    write_file("$self->{html}/index.html", '<html><head><title>It works!'
               . '</title></head><body>It works!</body></html>');
}


sub remove {
    my ($self) = @_;

    remove_tree($self->{root}) if -d $self->{root};
}


sub write_file {
    my ($path, $text) = @_;

    open my $out, '>', $path or die "cannot write $path: $!\n";
    binmode $out;
    print $out $text;
    close $out or die "cannot write $path: $!\n";
}


sub read_file {
    my ($path) = @_;

    open my $in, '<', $path or return '';
    local $/;
    return scalar(<$in>) // '';
}


# start(LEAKS): true when NGINX serves.  Else {status} is its wait status.

sub start {
    my ($self, $leaks) = @_;

    $self->{error_pos} = $self->{access_pos} = 0;
    delete $self->{status};

    my $child = fork // die "cannot fork: $!\n";

    if ($child == 0) {
        setpgrp;
        $self->sanitizer_env($leaks);
        open STDOUT, '>', '/dev/null';
        open STDERR, '>', $self->{stderr};
        exec($self->{binary}, '-p', "$self->{root}/", '-c', $self->{conf},
             '-e', $self->{errors})
            or POSIX::_exit(127);
    }

    $self->{child} = $self->{group} = $child;
    my $limit = time + $start_limit;

    while (time < $limit) {
        return 0 if $self->gone;
        return 1 if -s $self->{pid};
        sleep 0.003;
    }

    $self->stop;
    die "NGINX does not start within $start_limit s\n";
}


# Reports go to files of their own, beside the error log.  What the caller has
# set comes last and wins.  A configuration that is refused ends NGINX without
# freeing anything: leaks count only where it is meant to serve.

sub sanitizer_env {
    my ($self, $leaks) = @_;

    my $log  = "log_path=$self->{root}/logs/sanitizer";
    my %opts = (
        ASAN_OPTIONS  => "$log:detect_stack_use_after_return=1"
                         . ":detect_leaks=$leaks",
        LSAN_OPTIONS  => "suppressions=$suppressions:print_suppressions=0",
        UBSAN_OPTIONS => "$log:print_stacktrace=1",
    );

    for my $name (keys %opts) {
        $ENV{$name} = join ':', $opts{$name}, $ENV{$name} // ();
    }
}


# wait_workers(N): the pid file is there before the workers are.

sub wait_workers {
    my ($self, $n) = @_;
    my $limit = time + $start_limit;

    while (time < $limit && !$self->gone) {
        my $pid = $self->{child};
        my @workers = split ' ',
                      read_file("/proc/$pid/task/$pid/children");
        return if @workers >= $n;
        sleep 0.003;
    }
}


# gone(): true when the process has ended; {status} is set then.

sub gone {
    my ($self) = @_;

    return 1 if !defined $self->{child};
    return 0 if waitpid($self->{child}, WNOHANG) != $self->{child};

    $self->{status} = $?;
    delete $self->{child};
    return 1;
}


# stop(): ends NGINX: quietly, then firmly.  Returns a complaint when it had
# crashed or would not end.

sub stop {
    my ($self) = @_;

    return if !defined $self->{child} && !exists $self->{status};

    for my $step (['QUIT', 1], ['TERM', $stop_limit]) {
        last if $self->gone;
        kill $step->[0], $self->{child};

        my $limit = time + $step->[1];
        sleep 0.003 while !$self->gone && time < $limit;
    }

    if (!$self->gone) {
        kill 'KILL', -$self->{group};
        waitpid $self->{child}, 0;
        delete @$self{qw(child status)};
        return "NGINX does not end within $stop_limit s";
    }

    my $status = delete $self->{status};
    return undef if !$status;

    # Workers outlive a master that crashed.

    kill 'KILL', -$self->{group};
    return 'NGINX died of signal ' . ($status & 127) if $status & 127;
    return 'NGINX ended with code ' . ($status >> 8);
}


# What the logs have gained since they were last read.

sub new_lines {
    my ($self, $which) = @_;

    open my $in, '<', $self->{ $which eq 'error' ? 'errors' : 'access' }
        or return [];
    binmode $in;
    seek $in, $self->{"${which}_pos"} // 0, 0;

    my @lines = <$in>;
    return \@lines;
}


sub mark_lines {
    my ($self) = @_;

    $self->{error_pos}  = -s $self->{errors} // 0;
    $self->{access_pos} = -s $self->{access} // 0;
}


# complaints(LEVELS...): lines that no block wants to see: those levels of the
# error log, and reports of sanitizers.

sub complaints {
    my ($self, @levels) = @_;

    my $levels = join '|', @levels;
    my @found = !@levels ? () :
        grep { /^\S+ \S+ \[(?:$levels)\]/ } split /^/, read_file($self->{errors});

    for my $report (glob "$self->{root}/logs/sanitizer.*") {
        push @found, read_file($report);
    }

    push @found, grep { /Sanitizer|runtime error:/ }
                      split /^/, read_file($self->{stderr});

    return @found;
}


1;
