//! Tests of averages.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn counts_are_averaged_by_time_and_times_by_count() {
    let older = Counters { xact_count: 10, bytes_sent: 1000, xact_time: SECOND, ..Counters::default() };
    let total = Counters {
        server_assignment_count: 2,
        xact_count: 13,
        query_count: 4,
        bytes_received: 90,
        bytes_sent: 4000,
        xact_time: SECOND + Duration::from_micros(1_302_267),
        query_time: Duration::from_micros(447),
        wait_time: Duration::from_micros(1_306_155),
        client_parse_count: 60,
        server_parse_count: 59,
        bind_count: 300,
        client_login_count: 30,
    };
    let expected = Counters {
        server_assignment_count: 0,
        xact_count: 0,
        query_count: 0,
        bytes_received: 3,
        bytes_sent: 100,
        xact_time: Duration::from_micros(434_089),
        query_time: Duration::from_micros(111),
        wait_time: Duration::from_micros(653_077),
        client_parse_count: 2,
        server_parse_count: 1,
        bind_count: 10,
        client_login_count: 1,
    };
    assert_eq!(total.average(&older, 30 * SECOND), expected);
}

#[test]
fn averages_of_nothing_are_zero() {
    let total = Counters { query_count: 5, ..Counters::default() };
    assert_eq!(total.average(&total, SECOND), Counters::default());
    assert_eq!(total.average(&Counters::default(), Duration::ZERO).query_count, 0);
}

#[test]
fn a_counter_that_went_back_counts_as_still() {
    // The pools of a database that was dropped and came back begin at zero.
    let older = Counters { query_count: 5, query_time: SECOND, ..Counters::default() };
    assert_eq!(Counters::default().average(&older, SECOND), Counters::default());
}

#[test]
fn averages_reach_back_to_the_last_but_one_end_of_a_period() {
    let start = Instant::now();
    let at = |seconds| start + seconds * SECOND;
    let mut period = Period::new(start);
    assert_eq!(period.elapsed(start), SECOND);
    period.rotate(at(60));
    assert_eq!(period.elapsed(at(70)), 70 * SECOND);
    period.rotate(at(120));
    assert_eq!(period.elapsed(at(121)), 61 * SECOND);

    let counted = |query_count| Counters { query_count, ..Counters::default() };
    let mut history = History::default();
    history.rotate(&counted(7));
    assert_eq!(history.older().query_count, 0);
    history.rotate(&counted(9));
    assert_eq!(history.older().query_count, 7);
}

#[test]
fn counters_of_several_pools_add_up() {
    let one = Counters {
        server_assignment_count: 1,
        xact_count: 2,
        query_count: 3,
        bytes_received: 4,
        bytes_sent: 5,
        xact_time: Duration::from_micros(6),
        query_time: Duration::from_micros(7),
        wait_time: Duration::from_micros(8),
        client_parse_count: 9,
        server_parse_count: 10,
        bind_count: 11,
        client_login_count: 12,
    };
    let mut sum = one;
    sum.add(&one);
    assert_eq!(sum.numbers(), [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]);
}

#[test]
fn the_log_line_is_pgbouncers() {
    let average = Counters {
        server_assignment_count: 99,
        xact_count: 1,
        query_count: 2,
        bytes_received: 6,
        bytes_sent: 7,
        xact_time: Duration::from_micros(8),
        query_time: Duration::from_micros(9),
        wait_time: Duration::from_micros(10),
        client_parse_count: 3,
        server_parse_count: 4,
        bind_count: 5,
        client_login_count: 11,
    };
    let expected = "stats: 1 xacts/s, 2 queries/s, 3 client parses/s, 4 server parses/s, 5 binds/s, 11 client logins/s, \
                    in 6 B/s, out 7 B/s, xact 8 us, query 9 us, wait 10 us";
    assert_eq!(average.log_line(), expected);
}
