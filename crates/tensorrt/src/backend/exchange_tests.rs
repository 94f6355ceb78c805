//! Exchanges of engines that are tables, with failures at every place.

use std::sync::Mutex;

use super::*;

/// A program's engine that is a table of weights.
#[derive(Debug)]
struct Table {
    program: usize,
    weights: Mutex<HashMap<String, u32>>,
}

impl Table {
    fn new(program: usize) -> Self {
        Self {
            program,
            weights: Mutex::default(),
        }
    }

    fn get(&self, name: &str) -> Option<u32> {
        self.weights.lock().unwrap().get(name).copied()
    }
}

/// Weights are the number of their version. The request needs `a` and `b`, the step `b`, `c`
/// and `d`, of which `c` and `d` were merged.
struct Shop {
    old: u32,
    new: u32,
    /// Writes of these numbers fail after their first weight.
    fails: Vec<usize>,
    writes: usize,
    loads: usize,
    computed: Vec<(Version, Vec<String>)>,
    has_old: bool,
}

impl Shop {
    fn new(new: u32) -> Self {
        Self {
            old: new - 1,
            new,
            fails: Vec::new(),
            writes: 0,
            loads: 0,
            computed: Vec::new(),
            has_old: true,
        }
    }

    fn failing(mut self, fails: &[usize]) -> Self {
        self.fails = fails.to_vec();
        self
    }
}

impl Workshop for Shop {
    type Engine = Table;
    type Weight = u32;

    fn needed(&self, program: usize) -> Option<BTreeSet<String>> {
        Some(names([&["a", "b"][..], &["b", "c", "d"]][program]))
    }

    fn load(&mut self, program: usize) -> Result<Table> {
        self.loads += 1;
        Ok(Table::new(program))
    }

    fn compute(
        &mut self,
        version: Version,
        names: &BTreeSet<String>,
        _empty: [bool; 2],
    ) -> Result<Weights<u32>> {
        if version == Version::Old && !self.has_old {
            return Err(failed("a file is gone"));
        }
        self.computed
            .push((version, names.iter().cloned().collect()));
        let value = if version == Version::New {
            self.new
        } else {
            self.old
        };
        Ok(names.iter().map(|name| (name.clone(), value)).collect())
    }

    fn write(&mut self, engine: &Table, weights: &Weights<u32>) -> Result<Vec<String>> {
        let mut table = engine.weights.lock().unwrap();
        let needed = self.needed(engine.program).unwrap();
        let has = |name: &str| weights.contains_key(name);
        if needed.contains("c") && has("c") != has("d") {
            return Ok(vec![if has("c") { "d" } else { "c" }.to_owned()]);
        }
        self.writes += 1;
        for name in &needed {
            let Some(&weight) = weights.get(name) else {
                continue;
            };
            table.insert(name.clone(), weight);
            if self.fails.contains(&self.writes) {
                return Err(failed(&format!("write {}", self.writes)));
            }
        }
        Ok(Vec::new())
    }
}

fn failed(reason: &str) -> Error {
    Error::Unsupported {
        backend: "test",
        what: reason.to_owned(),
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn all() -> BTreeSet<String> {
    names(&["a", "b", "c", "d"])
}

/// An exchange whose engines have no weights.
fn bare() -> Exchange<Table> {
    Exchange::new(
        "model",
        [0, 1].map(|program| Some(Arc::new(Table::new(program)))),
    )
}

/// An exchange whose engines have the weights 1.
fn ready() -> Exchange<Table> {
    let exchange = bare();
    exchange.bring(&all(), &mut Shop::new(1)).unwrap();
    exchange
}

fn weights(engines: &Engines<Table>) -> [Option<u32>; 5] {
    let [request, step] = engines.each_ref().map(|engine| engine.as_ref().unwrap());
    let from = |table: &Table, name| table.get(name);
    [
        from(request, "a"),
        from(request, "b"),
        from(step, "b"),
        from(step, "c"),
        from(step, "d"),
    ]
}

fn now(exchange: &Exchange<Table>) -> [u32; 5] {
    weights(&exchange.engines().unwrap()).map(Option::unwrap)
}

#[test]
fn the_first_refit_fills_engines_that_were_loaded() {
    let exchange = bare();
    assert!(matches!(exchange.engines(), Err(Error::NoWeights(_))));
    let mut shop = Shop::new(1);
    // Whatever is said to have changed: there is nothing yet.
    assert_eq!(exchange.bring(&names(&["a"]), &mut shop).unwrap(), all());
    assert_eq!((shop.loads, now(&exchange)), (0, [1; 5]));
}

#[test]
fn only_what_changed_is_computed_and_written() {
    let exchange = ready();
    let mut shop = Shop::new(2);
    let brought = exchange.bring(&names(&["a", "other"]), &mut shop).unwrap();
    assert_eq!(brought, names(&["a"]));
    assert_eq!(shop.computed, [(Version::New, vec!["a".to_owned()])]);
    assert_eq!((shop.loads, shop.writes), (0, 1));
    assert_eq!(now(&exchange), [2, 1, 1, 1, 1]);
    let mut shop = Shop::new(3);
    exchange.bring(&names(&["b"]), &mut shop).unwrap();
    assert_eq!((shop.loads, shop.writes), (0, 2));
    assert_eq!(now(&exchange), [2, 3, 3, 1, 1]);
}

#[test]
fn weights_that_were_merged_are_written_together() {
    let exchange = ready();
    let mut shop = Shop::new(2);
    exchange.bring(&names(&["c"]), &mut shop).unwrap();
    let computed: Vec<Vec<String>> = shop.computed.into_iter().map(|(_, names)| names).collect();
    assert_eq!(computed, [["c"], ["d"]]);
    assert_eq!(now(&exchange), [1, 1, 1, 2, 2]);
}

#[test]
fn an_engine_that_is_held_keeps_its_weights() {
    let exchange = ready();
    let [request, step] = exchange.engines().unwrap();
    drop(request);
    // The request's engine is free again, the step's is held by a state.
    let mut shop = Shop::new(2);
    exchange.bring(&names(&["b"]), &mut shop).unwrap();
    assert_eq!(shop.loads, 1);
    // The other engine has all weights of the new parameters.
    assert_eq!(now(&exchange), [1, 2, 2, 2, 2]);
    assert_eq!(step.as_ref().unwrap().get("b"), Some(1));
    assert_eq!(Arc::strong_count(step.as_ref().unwrap()), 1);
    // A weight that it does not have leaves it where it is.
    let [_, step] = exchange.engines().unwrap();
    let mut shop = Shop::new(3);
    exchange.bring(&names(&["a"]), &mut shop).unwrap();
    assert_eq!(shop.loads, 0);
    assert_eq!(Arc::strong_count(step.as_ref().unwrap()), 2);
}

#[test]
fn an_engine_that_was_let_go_comes_back() {
    let exchange = ready();
    exchange.free(0);
    let [request, step] = exchange.engines().unwrap();
    assert!(request.is_none() && step.is_some());
    // For another request, while a state holds the step's.
    let mut shop = Shop::new(1);
    let brought = exchange.bring(&names(&[]), &mut shop).unwrap();
    assert_eq!(brought, names(&["a", "b"]));
    assert_eq!((shop.loads, shop.writes), (1, 1));
    assert_eq!(Arc::strong_count(step.as_ref().unwrap()), 2);
    assert_eq!(now(&exchange), [1; 5]);
    drop(step);
    // A refit brings it too, with all that it needs.
    exchange.free(0);
    let mut shop = Shop::new(2);
    exchange.bring(&names(&["c", "d"]), &mut shop).unwrap();
    assert_eq!(shop.loads, 1);
    assert_eq!(now(&exchange), [2; 5]);
}

#[test]
fn a_failure_leaves_the_old_weights() {
    for failing in [1, 2] {
        let exchange = ready();
        let mut shop = Shop::new(2).failing(&[failing]);
        let error = exchange.bring(&all(), &mut shop).unwrap_err();
        assert!(
            error.to_string().contains(&format!("write {failing}")),
            "{error}"
        );
        assert_eq!(now(&exchange), [1; 5]);
        // What was merged comes back together too.
        let mut shop = Shop::new(2).failing(&[failing]);
        exchange.bring(&names(&["b", "c"]), &mut shop).unwrap_err();
        assert_eq!(now(&exchange), [1; 5]);
    }
}

#[test]
fn a_failure_in_another_engine_leaves_the_old_one() {
    let exchange = ready();
    let held = exchange.engines().unwrap();
    let mut shop = Shop::new(2).failing(&[2]);
    exchange.bring(&all(), &mut shop).unwrap_err();
    assert_eq!(weights(&held), [Some(1); 5]);
    drop(held);
    assert_eq!(now(&exchange), [1; 5]);
}

#[test]
fn a_failed_first_refit_leaves_none() {
    let exchange = bare();
    let mut shop = Shop::new(1).failing(&[2]);
    exchange.bring(&all(), &mut shop).unwrap_err();
    assert!(matches!(exchange.engines(), Err(Error::NoWeights(_))));
    let mut shop = Shop::new(1);
    exchange.bring(&names(&["a"]), &mut shop).unwrap();
    assert_eq!((shop.loads, now(&exchange)), (2, [1; 5]));
}

#[test]
fn weights_that_are_mixed_are_used_by_nobody_until_all_are_new() {
    let exchange = ready();
    let mut shop = Shop::new(2).failing(&[2, 3]);
    let error = exchange.bring(&all(), &mut shop).unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert!(matches!(exchange.engines(), Err(Error::Poisoned { .. })));
    let mut shop = Shop::new(3);
    // Whatever is said to have changed.
    assert_eq!(exchange.bring(&names(&["a"]), &mut shop).unwrap(), all());
    assert_eq!((shop.loads, now(&exchange)), (2, [3; 5]));

    let exchange = ready();
    let mut shop = Shop::new(2).failing(&[1]);
    shop.has_old = false;
    let error = exchange.bring(&all(), &mut shop).unwrap_err().to_string();
    assert!(error.contains("a file is gone"), "{error}");
    assert!(exchange.engines().is_err());
}

#[test]
fn an_engine_that_is_taken_meanwhile_is_replaced() {
    /// Somebody prepares a request while the weights are computed.
    struct Meanwhile<'e> {
        shop: Shop,
        exchange: &'e Exchange<Table>,
        taken: Option<Engines<Table>>,
    }
    impl Workshop for Meanwhile<'_> {
        type Engine = Table;
        type Weight = u32;

        fn needed(&self, program: usize) -> Option<BTreeSet<String>> {
            self.shop.needed(program)
        }

        fn load(&mut self, program: usize) -> Result<Table> {
            self.shop.load(program)
        }

        fn compute(
            &mut self,
            version: Version,
            names: &BTreeSet<String>,
            empty: [bool; 2],
        ) -> Result<Weights<u32>> {
            self.taken
                .get_or_insert_with(|| self.exchange.engines().unwrap());
            self.shop.compute(version, names, empty)
        }

        fn write(&mut self, engine: &Table, weights: &Weights<u32>) -> Result<Vec<String>> {
            self.shop.write(engine, weights)
        }
    }
    let exchange = ready();
    let mut shop = Meanwhile {
        shop: Shop::new(2),
        exchange: &exchange,
        taken: None,
    };
    exchange.bring(&all(), &mut shop).unwrap();
    assert_eq!(shop.shop.loads, 2);
    assert_eq!(weights(shop.taken.as_ref().unwrap()), [Some(1); 5]);
    assert_eq!(now(&exchange), [2; 5]);
}
