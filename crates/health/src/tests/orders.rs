//! The write calls.

use ha::access::Credentials;
use ha::command::{Command, RestartFilter};

use super::*;

async fn answering(outcome: Outcome) -> Bed {
    Bed::with(primary(), Access::default(), Reply::new(outcome, "told so")).await
}

#[tokio::test]
async fn calls_become_orders() {
    let mut bed = answering(Outcome::Done).await;
    let switchover = |leader: Option<&str>, candidate: Option<&str>| Command::Switchover {
        leader: leader.map(str::to_owned),
        candidate: candidate.map(str::to_owned),
    };
    let filter = RestartFilter {
        role: Some("replica".to_owned()),
        postgres_version: Some("15.4".to_owned()),
        restart_pending: true,
        timeout_secs: Some(90),
    };
    for (method, path, body, command) in [
        (
            "PATCH",
            "/config",
            r#"{"ttl":20,"x":null}"#,
            Command::PatchConfig { patch: json!({"ttl":20,"x":null}), revision: None },
        ),
        ("PUT", "/config", r#"{"ttl":20}"#, Command::PutConfig { config: json!({"ttl":20}), revision: None }),
        ("POST", "/reload", "", Command::Reload),
        ("POST", "/restart", "", Command::Restart(RestartFilter::default())),
        ("POST", "/restart", "{}", Command::Restart(RestartFilter::default())),
        (
            "POST",
            "/restart",
            r#"{"role":"replica","postgres_version":"15.4","restart_pending":true,"timeout":"90s"}"#,
            Command::Restart(filter),
        ),
        ("POST", "/switchover", r#"{"leader":"pg1"}"#, switchover(Some("pg1"), None)),
        ("POST", "/switchover", r#"{"leader":"pg1","candidate":"pg2"}"#, switchover(Some("pg1"), Some("pg2"))),
        (
            "POST",
            "/switchover",
            r#"{"leader":"pg1","member":"pg2","scheduled_at":null}"#,
            switchover(Some("pg1"), Some("pg2")),
        ),
        ("POST", "/failover", r#"{"candidate":"pg2"}"#, Command::Failover { candidate: "pg2".to_owned() }),
        ("POST", "/failover", r#"{"leader":"pg1","candidate":"pg2"}"#, switchover(Some("pg1"), Some("pg2"))),
        ("POST", "/reinitialize", "", Command::Reinitialize { force: false, from_leader: false }),
        (
            "POST",
            "/reinitialize",
            r#"{"force":true,"from_leader":"on"}"#,
            Command::Reinitialize { force: true, from_leader: true },
        ),
    ] {
        let answer = bed.send(method, path, body).await;
        assert!((200..=202).contains(&answer.code), "{method} {path} {body}: {} {}", answer.code, answer.body);
        let order = bed.order();
        assert_eq!(order.command, command, "{method} {path} {body}");
        assert_eq!(order.who, "anonymous");
        assert!(order.from.starts_with("127.0.0.1:") && order.from.ends_with(" over REST"), "{}", order.from);
    }
}

#[tokio::test]
async fn outcomes_become_patronis_codes() {
    use Outcome::{Accepted, Conflict, Dcs, Done, Failed, Invalid, Precondition, Unprocessable};
    let calls = [
        ("PATCH", "/config", r#"{"ttl":20}"#),
        ("PUT", "/config", r#"{"ttl":20}"#),
        ("POST", "/reload", ""),
        ("POST", "/restart", ""),
        ("POST", "/switchover", r#"{"leader":"pg1"}"#),
        ("POST", "/reinitialize", ""),
    ];
    for (outcome, codes) in [
        (Done, [200, 200, 202, 200, 200, 200]),
        (Accepted, [200, 200, 202, 202, 202, 200]),
        (Invalid, [400, 400, 400, 400, 400, 400]),
        (Unprocessable, [422, 422, 422, 422, 422, 422]),
        (Conflict, [409, 502, 409, 409, 409, 409]),
        (Precondition, [503, 502, 503, 503, 412, 503]),
        (Failed, [503, 502, 503, 503, 503, 503]),
        (Dcs, [503, 502, 503, 503, 503, 503]),
    ] {
        let bed = answering(outcome).await;
        for ((method, path, body), code) in calls.iter().zip(codes) {
            let answer = bed.send(method, path, body).await;
            assert_eq!((answer.code, answer.body.as_str()), (code, "told so"), "{outcome:?} {method} {path}");
        }
    }
}

#[tokio::test]
async fn bad_calls_give_no_order() {
    let mut bed = answering(Outcome::Done).await;
    for (method, path, body, code) in [
        ("PATCH", "/config", "", 400),
        ("PATCH", "/config", "{}", 400),
        ("PATCH", "/config", "[1]", 400),
        ("PATCH", "/config", "{", 400),
        ("PUT", "/config", "null", 400),
        ("POST", "/switchover", "{}", 400),
        ("POST", "/switchover", r#"{"candidate":"pg2"}"#, 400),
        ("POST", "/switchover", r#"{"leader":"pg1","candidate":"pg1"}"#, 400),
        ("POST", "/switchover", r#"{"leader":7}"#, 400),
        ("POST", "/switchover", r#"{"leader":"pg1","scheduled_at":"2030-01-01T00:00:00Z"}"#, 501),
        ("POST", "/failover", r#"{"leader":"pg1"}"#, 400),
        ("POST", "/failover", r#"{"candidate":"pg2","scheduled_at":"2030-01-01T00:00:00Z"}"#, 400),
        ("POST", "/restart", r#"{"schedule":"2030-01-01T00:00:00Z"}"#, 501),
        ("POST", "/restart", r#"{"role":"king"}"#, 400),
        ("POST", "/restart", r#"{"timeout":0}"#, 400),
        ("POST", "/restart", r#"{"postgres_version":"fifteen"}"#, 400),
        ("POST", "/restart", r#"{"moon":"full"}"#, 400),
        ("POST", "/restart", "nonsense", 400),
        ("DELETE", "/restart", "", 404),
        ("DELETE", "/switchover", "", 404),
        ("POST", "/failsafe", "{}", 502),
        ("POST", "/nonsense", "{}", 501),
        ("PUT", "/restart", "{}", 501),
        ("TRACE", "/", "", 501),
    ] {
        let answer = bed.send(method, path, body).await;
        assert_eq!(answer.code, code, "{method} {path} {body}: {}", answer.body);
        assert!(!answer.body.is_empty(), "{method} {path} {body} says why");
        assert!(bed.orders.try_recv().is_err(), "{method} {path} {body} gave an order");
    }
}

#[tokio::test]
async fn bodies_are_bounded() {
    let mut bed = answering(Outcome::Done).await;
    let missing = bed.raw("PATCH /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(missing.code, 411);
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(1 << 20));
    assert_eq!(bed.send("PATCH", "/config", &long).await.code, 413);
    assert!(bed.orders.try_recv().is_err());
}

#[tokio::test]
async fn a_chunked_filter_is_not_lost() {
    let mut bed = answering(Outcome::Done).await;
    let body = r#"{"restart_pending":true}"#;
    let request = format!(
        "POST /restart HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(bed.raw(&request).await.code, 200);
    let filter = RestartFilter { restart_pending: true, ..RestartFilter::default() };
    assert_eq!(bed.order().command, Command::Restart(filter));
}

#[tokio::test]
async fn a_new_configuration_comes_back_as_json() {
    let reply = Reply { body: Some(json!({"ttl": 20})), ..Reply::new(Outcome::Done, "patched") };
    let bed = Bed::with(primary(), Access::default(), reply).await;
    let answer = bed.send("PATCH", "/config", r#"{"ttl":20}"#).await;
    assert_eq!((answer.code, answer.body.as_str()), (200, r#"{"ttl": 20}"#));
}

#[tokio::test]
async fn silence_of_the_agent_is_a_failure() {
    let bed = Bed::with(primary(), Access::default(), Reply::new(Outcome::Done, "")).await;
    assert_eq!(bed.send("POST", "/reload", "").await.body, "reload scheduled");

    let (orders, receiver) = mpsc::channel(1);
    drop(receiver);
    let options = Options { access: watch::channel(Arc::default()).1, extra_headers: HeaderMap::new() };
    let api = Api::new(options, watch::channel(Arc::new(primary())).1, Tick::default, orders);
    let gone = Bed { address: serve(Arc::new(api)).await, ..bed };
    assert_eq!(gone.send("POST", "/reload", "").await.code, 503);

    let (orders, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    let options = Options { access: watch::channel(Arc::default()).1, extra_headers: HeaderMap::new() };
    let api = Api::new(options, watch::channel(Arc::new(primary())).1, Tick::default, orders);
    let mute = Bed { address: serve(Arc::new(api)).await, ..gone };
    assert_eq!(mute.send("POST", "/restart", "").await.code, 503);
}

#[tokio::test]
async fn orders_need_what_is_configured_and_reads_nothing() {
    let credentials = Credentials { user: "admin".to_owned(), password: "secret".to_owned() };
    let header = format!("Authorization: {}\r\n", credentials.header());
    let wrong =
        format!("Authorization: {}\r\n", Credentials { password: "guess".to_owned(), ..credentials.clone() }.header());
    let basic = Access { credentials: Some(credentials), ..Access::default() };
    let elsewhere = Access { allowlist: vec!["10.0.0.0/8".parse().unwrap()], ..basic.clone() };
    let certificate = Access { client_certificate: true, ..basic.clone() };
    for (access, headers, code) in [
        (basic.clone(), "", 401),
        (basic.clone(), wrong.as_str(), 401),
        (basic.clone(), "Authorization: Basic \u{e9}\r\n", 401),
        (basic, header.as_str(), 202),
        (elsewhere, header.as_str(), 403),
        (certificate, header.as_str(), 403),
    ] {
        let mut bed = Bed::with(primary(), access.clone(), Reply::new(Outcome::Accepted, "")).await;
        let answer = bed.send_with("POST", "/reload", headers, "").await;
        assert_eq!(answer.code, code, "{access:?} {headers}");
        assert_eq!(answer.head.contains("www-authenticate: basic realm="), code == 401);
        assert_eq!(bed.code("/primary").await, 200);
        if code == 202 {
            assert_eq!(bed.order().who, "admin");
        } else {
            assert!(bed.orders.try_recv().is_err());
        }
    }
}

#[tokio::test]
async fn a_switchover_scheduled_elsewhere_is_not_denied() {
    let bed = Bed::new(primary()).await;
    bed.publish(|s| {
        let failover =
            ha::cluster::Failover { scheduled_at: Some("2030-01-01T00:00:00Z".to_owned()), ..Default::default() };
        s.cluster =
            Some(Arc::new(Cluster { failover: Some(Revisioned { revision: 9, value: failover }), ..cluster() }));
    });
    assert_eq!(bed.send("DELETE", "/switchover", "").await.code, 501);
}
