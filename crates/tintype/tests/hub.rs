//! Downloads from a small HTTP server on loopback that answers as the hub does.
//!
//! No test touches the network or the environment: addresses and folders are passed as
//! [`Settings`].

mod hub_server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hub_server::{COMMIT, HubServer, Trouble};
use tintype::hub::{Settings, resolve, resolve_with};

const BIG: &str = "transformer/diffusion_pytorch_model.safetensors";

fn settings(server: &HubServer, cache: &Path) -> Settings {
    Settings {
        endpoint: server.address(),
        cache: cache.to_path_buf(),
        token: None,
        offline: false,
        quiet: true,
        retry_wait: Duration::from_millis(1),
    }
}

fn repository(cache: &Path) -> PathBuf {
    cache.join("models--org--flux")
}

fn error_of(result: anyhow::Result<PathBuf>) -> String {
    format!("{:#}", result.expect_err("an error was expected"))
}

/// No file has its final name unless it is complete, and no reference is there.
fn assert_nothing_pretends_to_be_complete(cache: &Path) {
    assert!(!repository(cache).join("refs/main").exists());
    let index = repository(cache)
        .join("snapshots")
        .join(COMMIT)
        .join("model_index.json");
    assert!(!index.exists());
}

#[test]
fn a_pipeline_is_fetched_once_and_then_found() {
    let server = HubServer::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&server, cache.path());
    let folder = resolve_with("org/flux", &settings).unwrap();
    assert_eq!(
        folder,
        repository(cache.path()).join("snapshots").join(COMMIT)
    );
    for (name, content) in server.files() {
        let found = std::fs::read(folder.join(name)).ok();
        let is_needed = !matches!(*name, "README.md" | "flux1-dev.safetensors");
        assert_eq!(found.as_ref(), is_needed.then_some(content), "{name}");
    }
    let reference = repository(cache.path()).join("refs/main");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), COMMIT);

    let requests = server.requests().len();
    assert_eq!(resolve_with("org/flux", &settings).unwrap(), folder);
    let offline = Settings {
        offline: true,
        ..settings
    };
    assert_eq!(resolve_with("org/flux", &offline).unwrap(), folder);
    let pinned = format!("org/flux@{COMMIT}");
    assert_eq!(resolve_with(&pinned, &offline).unwrap(), folder);
    assert_eq!(server.requests().len(), requests, "a hit needs no network");
}

#[test]
fn sizes_and_checksums_come_from_headers_if_the_list_has_none() {
    let server = HubServer::start(Trouble {
        is_terse: true,
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let folder = resolve_with("org/flux", &settings(&server, cache.path())).unwrap();
    assert_eq!(
        std::fs::read(folder.join(BIG)).unwrap(),
        *server.file(BIG),
        "{:?}",
        server.requests()
    );
    let asked = server.requests();
    assert!(asked.iter().any(|request| request.starts_with("HEAD ")));
}

#[test]
fn a_connection_broken_midway_is_resumed() {
    let server = HubServer::start(Trouble {
        broken_transfers: 2,
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let folder = resolve_with("org/flux", &settings(&server, cache.path())).unwrap();
    assert_eq!(std::fs::read(folder.join(BIG)).unwrap(), *server.file(BIG));
    let ranges = server.ranges_of(BIG);
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert!(ranges[0].is_none());
    assert!(ranges[1] < ranges[2], "each goes on further: {ranges:?}");
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_stopped() {
    let server = HubServer::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let blobs = repository(cache.path()).join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", server.etag(BIG)));
    std::fs::write(partial, &server.file(BIG)[..1000]).unwrap();
    let folder = resolve_with("org/flux", &settings(&server, cache.path())).unwrap();
    assert_eq!(std::fs::read(folder.join(BIG)).unwrap(), *server.file(BIG));
    assert_eq!(server.ranges_of(BIG), [Some(1000)]);
}

#[test]
fn a_foreign_beginning_is_noticed_and_fetched_anew() {
    let server = HubServer::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let blobs = repository(cache.path()).join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", server.etag(BIG)));
    std::fs::write(partial, vec![7; 1000]).unwrap();
    let folder = resolve_with("org/flux", &settings(&server, cache.path())).unwrap();
    assert_eq!(std::fs::read(folder.join(BIG)).unwrap(), *server.file(BIG));
    assert_eq!(server.ranges_of(BIG), [Some(1000), None]);
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    let server = HubServer::start(Trouble {
        broken_transfers: 1,
        ignores_ranges: true,
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let folder = resolve_with("org/flux", &settings(&server, cache.path())).unwrap();
    assert_eq!(std::fs::read(folder.join(BIG)).unwrap(), *server.file(BIG));
}

#[test]
fn a_download_that_never_gets_on_keeps_what_came() {
    let server = HubServer::start(Trouble {
        broken_transfers: usize::MAX,
        stops_at: Some(2000),
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let error = error_of(resolve_with("org/flux", &settings(&server, cache.path())));
    assert!(error.contains(BIG), "{error}");
    assert!(error.contains("stopped at 2000 of"), "{error}");
    assert_nothing_pretends_to_be_complete(cache.path());
    let blobs = repository(cache.path()).join("blobs");
    assert!(!blobs.join(server.etag(BIG)).exists());
    let partial = blobs.join(format!("{}.incomplete", server.etag(BIG)));
    assert_eq!(std::fs::metadata(partial).unwrap().len(), 2000);

    let offline = Settings {
        offline: true,
        ..settings(&server, cache.path())
    };
    let error = error_of(resolve_with("org/flux", &offline));
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn damaged_bytes_are_refused() {
    for is_terse in [false, true] {
        let server = HubServer::start(Trouble {
            is_terse,
            damages: Some(BIG),
            ..Trouble::default()
        });
        let cache = tempfile::tempdir().unwrap();
        let error = error_of(resolve_with("org/flux", &settings(&server, cache.path())));
        assert!(error.contains("arrived damaged"), "{error}");
        assert!(error.contains(server.etag(BIG)), "{error}");
        assert_nothing_pretends_to_be_complete(cache.path());
        let left = std::fs::read_dir(repository(cache.path()).join("blobs")).unwrap();
        let left = left
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>();
        assert!(
            left.iter()
                .all(|name| !name.to_string_lossy().contains(server.etag(BIG))),
            "{left:?}"
        );
    }
}

#[test]
fn a_small_file_is_compared_with_its_git_hash() {
    let server = HubServer::start(Trouble {
        damages: Some("vae/config.json"),
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let error = error_of(resolve_with("org/flux", &settings(&server, cache.path())));
    assert!(error.contains("vae/config.json arrived damaged"), "{error}");
}

#[test]
fn a_wrong_size_is_refused() {
    let server = HubServer::start(Trouble {
        shortens: Some(BIG),
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let error = error_of(resolve_with("org/flux", &settings(&server, cache.path())));
    assert!(error.contains(BIG), "{error}");
    assert!(error.contains("wrong size: expected"), "{error}");
    assert_nothing_pretends_to_be_complete(cache.path());
}

#[test]
fn a_gated_model_asks_for_licence_and_token() {
    let server = HubServer::start(Trouble {
        needs_token: Some("secret"),
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let mut settings = settings(&server, cache.path());
    let error = error_of(resolve_with("org/flux", &settings));
    for part in ["401", "licence", "HF_TOKEN", "org/flux", "no token is set"] {
        assert!(error.contains(part), "`{part}` is missing: {error}");
    }
    settings.token = Some("wrong".to_owned());
    let error = error_of(resolve_with("org/flux", &settings));
    assert!(error.contains("403"), "{error}");
    settings.token = Some("secret".to_owned());
    resolve_with("org/flux", &settings).unwrap();
}

#[test]
fn unknown_models_and_other_layouts_are_named() {
    let server = HubServer::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&server, cache.path());
    let error = error_of(resolve_with("org/nothing", &settings));
    assert!(
        error.contains("404") && error.contains("org/nothing"),
        "{error}"
    );
    let error = error_of(resolve_with("org/flux@v9", &settings));
    assert!(error.contains("org/flux@v9"), "{error}");
    let error = error_of(resolve_with("org/other", &settings));
    assert!(error.contains("model_index.json"), "{error}");
    assert!(error.contains("pytorch_model.bin"), "{error}");
}

#[test]
fn a_busy_hub_is_asked_again() {
    let server = HubServer::start(Trouble {
        busy_answers: 3,
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    resolve_with("org/flux", &settings(&server, cache.path())).unwrap();
}

#[test]
fn a_listing_cannot_climb_out_of_the_cache() {
    let server = HubServer::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let error = error_of(resolve_with(
        "org/hostile",
        &settings(&server, cache.path()),
    ));
    assert!(error.contains("expected a commit"), "{error}");
}

#[test]
fn an_unreachable_hub_says_what_to_set() {
    let server = HubServer::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let mut settings = settings(&server, cache.path());
    // Port 9 (discard) is closed wherever this runs.
    settings.endpoint = "http://127.0.0.1:9".to_owned();
    let error = error_of(resolve_with("org/flux", &settings));
    assert!(error.contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn existing_paths_are_returned_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(resolve(path, true).unwrap(), folder.path());
    let missing = format!("{path}/missing");
    let error = error_of(resolve(&missing, true));
    assert!(error.contains("no such file or folder"), "{error}");
}
