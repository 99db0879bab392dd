//! The modules of a crate as a graph: which file imports from which. Code of tests is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Item, UseTree, Visibility};

/// The path of a module in its crate; empty for the crate itself.
pub type Module = Vec<String>;

/// The imports of a crate.
#[derive(Debug)]
pub struct Imports {
    /// For each file, by its module, the modules of the files from which it imports.
    pub edges: BTreeMap<Module, BTreeSet<Module>>,
}

/// What one file says.
#[derive(Debug, Default)]
struct Source {
    /// Names that the file defines at its top level.
    defined: BTreeSet<String>,
    /// Names that it exports again, with their paths in the crate; `*` for globs.
    exported: Vec<(String, Module)>,
    /// Paths in the crate that it uses.
    used: Vec<Module>,
}

impl Imports {
    /// Reads all source files below `root`, the directory of `lib.rs` or `main.rs`.
    ///
    /// # Panics
    /// A file cannot be read or is not Rust.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        read(root, root, &mut files);
        let tests = leave_tests_out(&mut files);
        let names: BTreeSet<Module> = files.keys().cloned().collect();
        let sources: BTreeMap<&Module, Source> = files
            .iter()
            .map(|(module, file)| (module, source(file, module, &names, &tests)))
            .collect();
        let edge = |module: &Module, path: &Module| {
            let target = resolve(path, &sources, 8);
            (target != *module).then_some(target)
        };
        let edges = sources.iter().map(|(module, source)| {
            let targets = source.used.iter();
            let targets = targets.filter_map(|path| edge(module, path));
            ((*module).clone(), targets.collect())
        });
        Self {
            edges: edges.collect(),
        }
    }

    /// The files that import from one another, directly or through others: each set with more than one file.
    #[must_use]
    pub fn cycles(&self) -> Vec<BTreeSet<&Module>> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> = self
            .edges
            .keys()
            .map(|module| (module, self.reachable(module)))
            .collect();
        let mut cycles: Vec<BTreeSet<&Module>> = Vec::new();
        for module in self.edges.keys() {
            if cycles.iter().any(|cycle| cycle.contains(module)) {
                continue;
            }
            let both = reach[module].iter().copied();
            let both: BTreeSet<&Module> =
                both.filter(|other| reach[other].contains(module)).collect();
            if both.len() > 1 {
                cycles.push(both);
            }
        }
        cycles
    }

    fn reachable<'a>(&'a self, from: &'a Module) -> BTreeSet<&'a Module> {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![from];
        while let Some(module) = waiting.pop() {
            for next in self.edges.get(module).into_iter().flatten() {
                if seen.insert(next) {
                    waiting.push(next);
                }
            }
        }
        seen
    }
}

/// Directories below `root` with more than `limit` source files.
///
/// # Panics
/// A directory cannot be read.
#[must_use]
pub fn crowded(root: &Path, limit: usize) -> Vec<(PathBuf, usize)> {
    let mut crowded = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        let mut count = 0;
        for entry in fs::read_dir(&directory).expect("it is a directory") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                count += 1;
            }
        }
        if count > limit {
            crowded.push((directory, count));
        }
    }
    crowded
}

/// Adds the files below `directory`, by module.
fn read(root: &Path, directory: &Path, files: &mut BTreeMap<Module, syn::File>) {
    for entry in fs::read_dir(directory).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            read(root, &path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).expect("it can be read");
            let file = syn::parse_file(&text);
            let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            files.insert(module_of(root, &path), file);
        }
    }
}

fn module_of(root: &Path, path: &Path) -> Module {
    let path = path
        .strip_prefix(root)
        .expect("it is below")
        .with_extension("");
    let parts = path.iter().map(|part| part.to_string_lossy().into_owned());
    let mut module: Module = parts.collect();
    if let Some("mod" | "lib" | "main") = module.last().map(String::as_str) {
        module.pop();
    }
    module
}

/// Removes the modules that are compiled for tests only, and returns them.
fn leave_tests_out(files: &mut BTreeMap<Module, syn::File>) -> Vec<Module> {
    let mut tests: Vec<Module> = Vec::new();
    for (module, file) in &*files {
        for item in &file.items {
            if let Item::Mod(item) = item
                && item.content.is_none()
                && is_test(&item.attrs)
            {
                tests.push([&module[..], &[item.ident.to_string()]].concat());
            }
        }
    }
    files.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    tests
}

/// Whether the attributes have `#[cfg(test)]`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

fn source(
    file: &syn::File,
    module: &Module,
    modules: &BTreeSet<Module>,
    tests: &[Module],
) -> Source {
    let mut visitor = Visitor {
        module,
        depth: 0,
        modules,
        tests,
        source: Source::default(),
        named: BTreeSet::new(),
        called: BTreeSet::new(),
        variables: BTreeSet::new(),
    };
    for item in &file.items {
        if let Some(name) = name_of(item) {
            visitor.source.defined.insert(name);
        }
        visitor.visit_item(item);
    }
    visitor.use_exports();
    visitor.source
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Macro(it) => it.ident.as_ref()?,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::Type(it) => &it.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

struct Visitor<'a> {
    module: &'a Module,
    /// How many modules with a body surround the item at hand.
    depth: usize,
    modules: &'a BTreeSet<Module>,
    /// Modules for tests: a statement with `#[cfg(test)]` may name them.
    tests: &'a [Module],
    source: Source,
    /// First names of the paths in the file.
    named: BTreeSet<String>,
    /// First names of the paths that are called.
    called: BTreeSet<String>,
    /// Names of variables.
    variables: BTreeSet<String>,
}

impl Visitor<'_> {
    /// The path in the crate, if it is one.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let (first, mut rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" if self.depth == 0 => Some([self.module, rest].concat()),
            "super" => {
                let mut ups: usize = 1;
                while let Some((next, more)) = rest.split_first()
                    && next == "super"
                {
                    ups += 1;
                    rest = more;
                }
                let ups = ups.checked_sub(self.depth)?;
                let length = self.module.len().checked_sub(ups)?;
                Some([&self.module[..length], rest].concat())
            }
            _ => {
                let child = [&self.module[..], std::slice::from_ref(first)].concat();
                self.modules
                    .contains(&child)
                    .then(|| [self.module, path].concat())
            }
        }
    }

    fn uses(&mut self, path: &[String]) {
        self.named.extend(path.first().cloned());
        if path.len() > 1
            && let Some(path) = self.absolute(path)
            && !self.tests.iter().any(|test| path.starts_with(test))
        {
            self.source.used.push(path);
        }
    }

    /// Adds the names that the file exports again and also uses itself: these are imports, too. A variable may have the name of a
    /// function that is exported; such a name counts only if it is called.
    fn use_exports(&mut self) {
        let is_used = |name: &String| {
            let is_variable = self.variables.contains(name);
            self.called.contains(name) || (self.named.contains(name) && !is_variable)
        };
        let exported = self.source.exported.iter();
        let used = exported.filter(|(name, _)| is_used(name));
        let used: Vec<Module> = used.map(|(_, path)| path.clone()).collect();
        self.source.used.extend(used);
    }

    fn tree(&mut self, tree: &UseTree, before: &[String], is_exported: bool) {
        let with = |name: String| [before, &[name]].concat();
        let (path, name) = match tree {
            UseTree::Path(it) => {
                return self.tree(&it.tree, &with(it.ident.to_string()), is_exported);
            }
            UseTree::Group(it) => {
                for one in &it.items {
                    self.tree(one, before, is_exported);
                }
                return;
            }
            UseTree::Name(it) if it.ident == "self" => (before.to_vec(), before.last().cloned()),
            UseTree::Name(it) => (with(it.ident.to_string()), Some(it.ident.to_string())),
            UseTree::Rename(it) => (with(it.ident.to_string()), Some(it.rename.to_string())),
            UseTree::Glob(_) => (before.to_vec(), Some("*".to_owned())),
        };
        if !is_exported {
            self.uses(&path);
        } else if let (Some(name), Some(path)) = (name, self.absolute(&path)) {
            self.source.exported.push((name, path));
        }
    }

    /// Paths in the tokens of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut dots = 0;
        for token in tokens {
            // The name after one dot is a field or a method. Two dots are a range.
            let is_member = dots == 1;
            dots = match &token {
                TokenTree::Punct(sign) if sign.as_char() == '.' => dots + 1,
                _ => 0,
            };
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.uses(&std::mem::take(&mut path));
                    }
                    if !is_member {
                        path.push(name.to_string());
                    }
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(sign) if sign.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    if group.delimiter() == Delimiter::Parenthesis {
                        self.called.extend(path.first().cloned());
                    }
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            self.uses(&std::mem::take(&mut path));
            colons = 0;
        }
        self.uses(&path);
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(it) => &it.attrs,
            Item::Impl(it) => &it.attrs,
            Item::Mod(it) => &it.attrs,
            Item::Use(it) => &it.attrs,
            _ => return visit::visit_item(self, item),
        };
        if is_test(attributes) {
            return;
        }
        match item {
            Item::Use(it) => {
                let is_exported = !matches!(it.vis, Visibility::Inherited);
                self.tree(&it.tree, &[], is_exported);
            }
            Item::Mod(it) if it.content.is_some() => {
                self.depth += 1;
                visit::visit_item(self, item);
                self.depth -= 1;
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {
        // The path in `pub(in …)` is no import.
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        self.uses(&parts);
        visit::visit_path(self, path);
    }

    fn visit_expr_call(&mut self, it: &'ast syn::ExprCall) {
        if let Expr::Path(function) = &*it.func {
            let first = function.path.segments.first();
            self.called.extend(first.map(|it| it.ident.to_string()));
        }
        visit::visit_expr_call(self, it);
    }

    fn visit_pat_ident(&mut self, it: &'ast syn::PatIdent) {
        let name = it.ident.to_string();
        // A capital letter begins the name of a constant or of a variant.
        if name.starts_with(char::is_uppercase) {
            self.named.insert(name);
        } else {
            self.variables.insert(name);
        }
        visit::visit_pat_ident(self, it);
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        self.tokens(it.tokens.clone());
        visit::visit_macro(self, it);
    }
}

/// The module of the file that defines what a path names. Re-exports are followed.
fn resolve(path: &[String], sources: &BTreeMap<&Module, Source>, depth: usize) -> Module {
    let length = (0..=path.len())
        .rev()
        .find(|length| sources.contains_key(&path[..*length].to_vec()))
        .unwrap_or(0);
    let module = path[..length].to_vec();
    let (Some(name), Some(source)) = (path.get(length), sources.get(&module)) else {
        return module;
    };
    if depth == 0 || source.defined.contains(name) {
        return module;
    }
    let rest = &path[length + 1..];
    if let Some((_, to)) = source.exported.iter().find(|(its, _)| its == name) {
        return resolve(&[&to[..], rest].concat(), sources, depth - 1);
    }
    for (_, to) in source.exported.iter().filter(|(its, _)| its == "*") {
        let defines = |it: &Source| {
            it.defined.contains(name) || it.exported.iter().any(|(its, _)| its == name)
        };
        if sources.get(to).is_some_and(defines) {
            return resolve(&[to, &path[length..]].concat(), sources, depth - 1);
        }
    }
    module
}
