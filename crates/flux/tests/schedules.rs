//! Schedules recorded from diffusers, compared bit for bit.

use std::path::Path;

use serde::Deserialize;
use tintype_flux::scheduler::{FlowMatchEulerConfig, Schedule, ScheduleRequest};

#[derive(Deserialize)]
struct Case {
    config: serde_json::Value,
    num_inference_steps: usize,
    sigmas: Option<Vec<f64>>,
    image_seq_len: usize,
    mu: Option<f64>,
    expected: Expected,
    default_sigmas: bool,
}

#[derive(Deserialize)]
struct Expected {
    sigmas: Vec<f64>,
    timesteps: Vec<f64>,
}

#[test]
fn recorded_schedules_are_reproduced() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/fixtures/modules/schedules.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case.config.to_string();
        let mut config = FlowMatchEulerConfig::parse(text.as_bytes(), &path).unwrap();
        // Without sigmas the scheduler was left to space its steps by itself.
        config.use_flow_sigmas = case.sigmas.is_none();
        let request = ScheduleRequest {
            steps: case.num_inference_steps,
            sigmas: case.sigmas.filter(|_| !case.default_sigmas),
            image_seq_len: case.image_seq_len,
        };
        let schedule = Schedule::new(&config, &request).unwrap();
        let found: Vec<f64> = schedule.sigmas.iter().map(|&sigma| sigma.into()).collect();
        assert_eq!(found, case.expected.sigmas, "sigmas of {text}, {request:?}");
        let found: Vec<f64> = schedule.timesteps.iter().map(|&time| time.into()).collect();
        assert_eq!(
            found, case.expected.timesteps,
            "timesteps of {text}, {request:?}"
        );
        if let Some(mu) = case.mu {
            assert_eq!(schedule.mu, mu, "mu of {text}, {request:?}");
        }
    }
}
