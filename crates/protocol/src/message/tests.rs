//! Tests of messages.

use super::*;

#[test]
fn steps_are_shown_as_slurm_does() {
    let step = |step| StepId { job: 12, step, restart: 0 }.to_string();
    assert_eq!([step(0), step(BATCH_SCRIPT), step(INTERACTIVE_STEP)], ["12.0", "12.batch", "12.interactive"]);
}

#[test]
fn steps_are_read_as_they_are_shown() {
    for step in [0, 7, BATCH_SCRIPT, INTERACTIVE_STEP, EXTERN_CONT] {
        let shown = StepId { job: 12, step, restart: 0 }.to_string();
        assert_eq!(StepId::numbers(&shown), Ok((12, step)));
    }
    for text in ["", "12", ".", "12.", ".0", "12.x", "-1.0", "12.0.0", "99999999999.0"] {
        assert!(StepId::numbers(text).is_err(), "{text}");
    }
}

fn lease_request() -> LeaseRequest {
    LeaseRequest {
        step: StepId { job: 1, step: 0, restart: 0 },
        uid: 0,
        gid: 0,
        groups: None,
        image: "a".into(),
        image_id: None,
        mode: Mode::Run,
        memory: None,
        as_root: false,
        container: None,
        rule: None,
    }
}

#[test]
fn ids_that_are_none_are_faults() {
    let good = lease_request();
    assert!(good.fault().is_none());
    assert!(LeaseRequest { uid: NO_ID, ..good.clone() }.fault().is_some());
    assert!(LeaseRequest { gid: NO_ID, ..good.clone() }.fault().is_some());
    assert!(LeaseRequest { container: Some("../x".into()), ..good }.fault().is_some());
}

#[test]
fn an_older_agent_refuses_what_it_must_not_pass_over() {
    let mut request = lease_request();
    let step = request.step;
    assert_eq!(Request::Lease(request.clone()).version(), 1);
    let named = LeaseRequest { container: Some("a".into()), ..request.clone() };
    request.as_root = true;
    for newer in [request, named] {
        assert_eq!(Request::Lease(newer).version(), 2);
    }
    assert_eq!(Request::Release { step }.version(), 1);
}

#[test]
fn modes_are_read_as_they_are_written() {
    for mode in [Mode::Run, Mode::Podman] {
        assert_eq!(mode.as_str().parse(), Ok(mode));
    }
}

#[test]
fn an_unknown_mode_says_which_there_are() {
    let message = "rnu".parse::<Mode>().unwrap_err().to_string();
    assert!(message.contains("\"rnu\"") && message.contains("podman"), "{message}");
}
