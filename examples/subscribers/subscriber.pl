#!/usr/bin/perl
# Print all events of a Procline instance as JSON, one a line, and what is missing. docs/wire-schema.md explains it.
#     apt install libzmq-ffi-perl libdata-messagepack-perl libjson-xs-perl && perl subscriber.pl [ENDPOINT]
use v5.36;
use Data::MessagePack;
use JSON::XS;
use ZMQ::FFI qw(ZMQ_RCVHWM ZMQ_RCVTIMEO ZMQ_SUB);

my @TOPICS = qw(proc.fork proc.exec proc.exit proc.cred proc.context proc.reparent sys.loss sys.stats);
my %NUMBERS = map { $TOPICS[$_] => $_ } 0 .. $#TOPICS;
my $ALL = (1 << @TOPICS) - 1;

my $msgpack = Data::MessagePack->new->utf8(1);                      # str becomes characters
my $json = JSON::XS->new->ascii->allow_nonref->convert_blessed;     # ASCII only, which is safe on a terminal
sub Data::MessagePack::Boolean::TO_JSON ($value) { return $$value ? JSON::XS::true : JSON::XS::false }

my ($stream, $writer, $group, $step, $unwatched_ns) = (0, 0, 0, 0, 0);
my (@last, @lines);    # the last number of each topic; [order, JSON] of a group that is not complete
my (%seen, %former);    # kind, process and time of the events in this step, and in the last one of a former writer

sub flush_group () {
    say $_->[1] for sort { $a->[0] <=> $b->[0] } @lines;
    @lines = ();
}

sub add_event ($event) {
    my $text = $json->encode($event);    # first: a number that was used in a text is shown as one
    my $id = join ' ', $event->{event}, $event->{entity_id} // '', $event->{time_ns};
    $seen{$id} = 1;    # also a repeat: the next writer may repeat it again
    return if delete $former{$id};
    push @lines, [$event->{order}, $text];
}

sub begin ($header) {    # at the welcome, and in a new stream, whose numbers begin again
    ($stream, $writer) = @$header{qw(stream writer)};
    @last = @{ $header->{seqs} // [] };
    (%seen, %former) = ();
}

sub new_periods ($header) {    # known by their lengths, which stay the same if the clock is set
    my @periods = @{ $header->{unwatched} // [] };
    my ($known) = grep { $periods[$_ - 1][1] - $periods[$_ - 1][0] == $unwatched_ns } reverse 1 .. @periods;
    $unwatched_ns = $periods[-1][1] - $periods[-1][0] if @periods;
    return @periods[($known // 0) .. $#periods];
}

sub take ($number, $header, $body) {
    flush_group() if $header->{group} != $group || $header->{writer} != $writer;
    $group = $header->{group};
    if ($header->{stream} != $stream) {
        say $json->encode({ event => 'missed', topic => undef, reason => 'restart' });
        begin($header);
    }
    elsif ($header->{writer} != $writer) {    # it may repeat what the former one did not commit
        $writer = $header->{writer};
        %former = %seen;
        %seen = ();
    }
    say $json->encode({ event => 'unwatched', period => $_ }) for new_periods($header);
    my ($first, $count) = @$header{qw(first count)};
    my $next = ($last[$number] // $first - 1) + 1;
    if ($first > $next) {
        say $json->encode({ event => 'missed', topic => $TOPICS[$number], first => $next, last => $first - 1 });
    }
    $last[$number] = $first + $count - 1 if $first + $count > $next;
    ($step, %seen) = ($header->{step}) if $count && $header->{step} != $step;
    # The body is `count` objects, one after the other. Behind the header of an array of that length, it is one.
    add_event($_) for @{ $msgpack->unpack(pack('CN', 0xdd, $count) . $body) };
    flush_group() unless $header->{rest} & $ALL;
}

my $endpoint = $ARGV[0] // 'ipc:///run/procline/default/stream/stream.ipc';
my $word = 'sys.welcome.' . join '', map { sprintf '%04x', rand 65_536 } 1 .. 4;
my $context = ZMQ::FFI->new;    # its end would close the socket
my $socket = $context->socket(ZMQ_SUB);
$socket->set(ZMQ_RCVTIMEO, 'int', 5000);
$socket->set(ZMQ_RCVHWM, 'int', 8192);
$socket->connect($endpoint);
$socket->subscribe($_) for @TOPICS, $word;
$| = 1;
my $is_joined;
while (1) {
    my ($topic, $packed, $body) = eval { $socket->recv_multipart };
    if ($@) {    # no heartbeat either: the daemon is not running, or this user may not read its stream
        warn "subscriber: nothing arrives from $endpoint\n";    # ZeroMQ connects again by itself
        next if $is_joined;
        $socket->unsubscribe($word);
        $socket->subscribe($word);
        next;
    }
    my $header = $msgpack->unpack($packed);
    die "the stream has version $header->{major}, but this program reads 1\n" if $header->{major} != 1;
    take($NUMBERS{$topic}, $header, $body) if $is_joined && exists $NUMBERS{$topic};
    next if $is_joined || $topic ne $word;    # the welcome's numbers cover earlier events
    $is_joined = 1;
    begin($header);
    new_periods($header);
    $socket->unsubscribe($word);
}
