//! Finds import circles: files of one folder that need each other can only be understood together.
//!
//! A file imports another one when it names it, or an item that a `mod.rs` re-exports from it. A folder's
//! `mod.rs` and the files below it may name each other: the one is the front of the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use super::{root, sources};

/// A module's path, such as `["store", "endpoints"]`.
type Module = Vec<String>;
/// What each module imports.
type Graph = BTreeMap<Module, BTreeSet<Module>>;

#[test]
fn no_import_circle_in_any_folder() {
    let files: BTreeMap<Module, String> = sources()
        .iter()
        .filter_map(|file| Some((module(file)?, code(&fs::read_to_string(file).unwrap()))))
        .collect();
    let circles = circles(&graph(&files));
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn circle_check_follows_paths_and_reexports() {
    let file = |path: &str, text: &str| (path.split("::").map(str::to_owned).collect(), code(text));
    let files = BTreeMap::from([
        file("a", "mod x;\nmod y;\nmod z;\npub use y::{One, Two as Other};"),
        file("a::x", "use super::{\n    Other,\n    z::Three,\n};\n// super::q"),
        file("a::y", "fn f() { super::z::three() }"),
        file("a::z", "use crate::a::x;\n#[cfg(test)]\nmod tests {\n    use crate::a::y;\n}"),
    ]);
    let found: Vec<String> = circles(&graph(&files)).into_iter().collect();
    assert_eq!(found, ["a::x -> a::y -> a::z -> a::x", "a::x -> a::z -> a::x"]);
}

/// The module of a source file; `None` of the crate's roots, of other binaries and of tests.
fn module(file: &Path) -> Option<Module> {
    let path = file.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut parts: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    let is_test = |part: &String| part == "tests" || part.ends_with("_tests");
    let is_root = matches!(parts[0].as_str(), "lib" | "main" | "bin");
    (!is_root && !parts.iter().any(is_test)).then_some(parts)
}

/// A source text without comments and without its tests, which stand at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn graph(files: &BTreeMap<Module, String>) -> Graph {
    let imports = |from: &Module, text: &String| -> BTreeSet<Module> {
        let named = paths(text).into_iter().filter_map(|path| resolve(files, from, &path, 0));
        named
            .filter(|to| to[0] == from[0] && !to.starts_with(from) && !from.starts_with(to))
            .collect()
    };
    files.iter().map(|(from, text)| (from.clone(), imports(from, text))).collect()
}

/// Every path that a text names from `crate`, `super` or `self`, each `use` with its braces expanded.
fn paths(text: &str) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | ':')) {
                expand(&text[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Reads the path or the tree of paths at the start of `text`, and returns what is behind it.
fn expand<'a>(text: &'a str, prefix: &mut Module, found: &mut BTreeSet<Module>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        while !rest.trim_start().starts_with('}') && !rest.trim_start().is_empty() {
            rest = expand(rest, prefix, found).trim_start();
            // Past ` as Name` and the comma.
            let end = rest.find([',', '}']).unwrap_or(rest.len());
            rest = rest[end..].strip_prefix(',').unwrap_or(&rest[end..]);
        }
        return rest.trim_start().strip_prefix('}').unwrap_or(rest);
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        // A glob names what its prefix names.
        found.insert(prefix.clone());
        return text.strip_prefix('*').unwrap_or(text);
    }
    prefix.push(name.to_owned());
    let rest = if let Some(inner) = rest.strip_prefix("::") {
        expand(inner, prefix, found)
    } else {
        found.insert(prefix.clone());
        rest
    };
    prefix.pop();
    rest
}

/// The file that a path leads to from a module, through re-exports; `None` when to no file of the crate.
fn resolve(
    files: &BTreeMap<Module, String>,
    from: &Module,
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let mut at = from.clone();
    let mut rest = path;
    while let Some((first, behind)) = rest.split_first() {
        match first.as_str() {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            _ => break,
        }
        rest = behind;
    }
    while let Some((first, behind)) = rest.split_first() {
        let child: Module = at.iter().chain([first]).cloned().collect();
        if !files.contains_key(&child) {
            break;
        }
        (at, rest) = (child, behind);
    }
    let text = files.get(&at)?;
    let reexported = rest.first().filter(|_| depth < 4).and_then(|name| reexport(text, name));
    let inner = reexported.and_then(|path| resolve(files, &at, &path, depth + 1));
    Some(inner.unwrap_or(at))
}

/// The path by which a `use` of a text brings a name in.
fn reexport(text: &str, name: &str) -> Option<Module> {
    let uses = text.split("use ").skip(1).filter_map(|rest| rest.split(';').next());
    for tree in uses {
        let mut found = BTreeSet::new();
        expand(tree, &mut Vec::new(), &mut found);
        let renamed = tree.split_once(&format!(" as {name}"));
        let renamed = renamed.filter(|(_, rest)| !rest.starts_with(|c: char| c.is_alphanumeric()));
        let renamed = renamed.and_then(|(before, _)| before.rsplit([' ', ':', '{']).next());
        let target = renamed.unwrap_or(name);
        if let Some(path) = found.into_iter().find(|path| path.last().is_some_and(|l| l == target))
        {
            return Some(path);
        }
    }
    None
}

/// One shortest circle through each module that is in one, each circle once, from its first module on.
fn circles(graph: &Graph) -> BTreeSet<String> {
    let circles = graph.keys().filter_map(|start| circle(graph, start));
    circles
        .map(|mut modules| {
            let first = (0..modules.len()).min_by_key(|at| &modules[*at]).unwrap_or(0);
            modules.rotate_left(first);
            modules.push(modules[0].clone());
            let names: Vec<String> = modules.iter().map(|module| module.join("::")).collect();
            names.join(" -> ")
        })
        .collect()
}

/// A shortest way from a module back to itself.
fn circle(graph: &Graph, start: &Module) -> Option<Vec<Module>> {
    let mut ways = VecDeque::from([vec![start.clone()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in graph.get(way.last()?).into_iter().flatten() {
            if next == start {
                return Some(way);
            }
            if seen.insert(next.clone()) {
                ways.push_back(way.iter().chain([next]).cloned().collect());
            }
        }
    }
    None
}
