//! The part of the template language that templates may use. Its parent calls it before a template is compiled or rendered.
//!
//! Templates place values; scripts make values, within limits of their own. So everything in the language itself that makes
//! text or lists longer (`+`, `*`, `~`, slices, captured blocks) is refused here: the template library counts operations,
//! but not the size of their results. Long chains are refused too, because the library handles them by recursion.

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Stmt};
use minijinja::machinery::{Token, parse, tokenize};

use super::text::{RenderError, RenderProblem};
use crate::model::Span;
use crate::model::template::{refused, syntax};

/// Most words of one `{{ }}` or `{% %}`.
const WORDS: usize = 256;
/// Most `elif` of a template: each is a level of the parser's recursion, and the parser does not limit them.
const ELIFS: usize = 64;

/// What `inspect` found in an accepted template.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// Line of the first loop.
    pub(crate) first_loop: Option<usize>,
}

/// Parses a template and refuses what templates may not use.
pub(crate) fn inspect(template: &str, source: &str) -> Result<Shape, RenderError> {
    let refuse = |(line, problem): (u16, String)| RenderError {
        place: Span::new(template, usize::from(line), 0),
        kind: RenderProblem::Other,
        problem,
    };
    chains(source).map_err(refuse)?;
    let tree = parse(source, template, syntax()).map_err(|error| refused(template, &error))?;
    let mut shape = Shape::default();
    statement(&tree, &mut shape).map_err(refuse)?;
    Ok(shape)
}

/// Counts words and branches. Text that is not a token is left to the parser, whose message is better.
fn chains(source: &str) -> Result<(), (u16, String)> {
    let mut words = 0;
    let mut elifs = 0;
    for (token, span) in tokenize(source, false, syntax()).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart | Token::TemplateData(_) => words = 0,
            Token::Ident("elif") => {
                elifs += 1;
                words += 1;
            }
            _ => words += 1,
        }
        if words > WORDS {
            let problem = format!("a tag of more than {WORDS} words");
            return Err((span.start_line, problem));
        }
        if elifs > ELIFS {
            let problem = format!("more than {ELIFS} `elif`");
            return Err((span.start_line, problem));
        }
    }
    Ok(())
}

type Checked = Result<(), (u16, String)>;

fn no(line: u16, what: &str) -> Checked {
    Err((line, format!("templates cannot use {what}")))
}

fn statements(all: &[Stmt<'_>], shape: &mut Shape) -> Checked {
    all.iter().try_for_each(|one| statement(one, shape))
}

fn statement(one: &Stmt<'_>, shape: &mut Shape) -> Checked {
    match one {
        Stmt::Template(template) => statements(&template.children, shape),
        Stmt::EmitRaw(_) => Ok(()),
        Stmt::EmitExpr(emit) => expression(&emit.expr),
        Stmt::IfCond(choice) => {
            expression(&choice.expr)?;
            statements(&choice.true_body, shape)?;
            statements(&choice.false_body, shape)
        }
        Stmt::ForLoop(each) => {
            let line = each.span().start_line;
            shape.first_loop.get_or_insert(usize::from(line));
            if each.recursive {
                return no(line, "`recursive`");
            }
            expression(&each.iter)?;
            each.filter_expr.as_ref().map_or(Ok(()), expression)?;
            statements(&each.body, shape)?;
            statements(&each.else_body, shape)
        }
        Stmt::Set(set) => expression(&set.expr),
        Stmt::SetBlock(set) => no(set.span().start_line, "`set` without `=`"),
        Stmt::WithBlock(with) => no(with.span().start_line, "`with`"),
        Stmt::AutoEscape(escape) => no(escape.span().start_line, "`autoescape`"),
        Stmt::FilterBlock(filter) => no(filter.span().start_line, "`filter`"),
        Stmt::Do(call) => no(call.span().start_line, "`do`"),
    }
}

fn expressions<'a>(all: impl IntoIterator<Item = &'a Expr<'a>>) -> Checked {
    all.into_iter().try_for_each(expression)
}

fn expression(one: &Expr<'_>) -> Checked {
    let line = one.span().start_line;
    match one {
        Expr::Var(_) | Expr::Const(_) => Ok(()),
        Expr::Slice(_) => no(line, "a slice"),
        Expr::UnaryOp(op) => expression(&op.expr),
        Expr::BinOp(op) => {
            let sign = match op.op {
                BinOpKind::Add => "+",
                BinOpKind::Mul => "*",
                BinOpKind::Pow => "**",
                BinOpKind::Concat => "~",
                _ => return expressions([&op.left, &op.right]),
            };
            Err((line, format!("`{sign}` is not an operator of templates")))
        }
        Expr::Compare(compare) => {
            expression(&compare.expr)?;
            compare.ops.iter().try_for_each(|op| expression(&op.expr))
        }
        Expr::IfExpr(choice) => {
            expressions([&choice.test_expr, &choice.true_expr])?;
            choice.false_expr.as_ref().map_or(Ok(()), expression)
        }
        Expr::Filter(filter) => {
            filter.expr.as_ref().map_or(Ok(()), expression)?;
            arguments(&filter.args)
        }
        Expr::Test(test) => {
            expression(&test.expr)?;
            arguments(&test.args)
        }
        Expr::GetAttr(get) => expression(&get.expr),
        Expr::GetItem(get) => expressions([&get.expr, &get.subscript_expr]),
        Expr::Call(_) => no(line, "a call"),
        Expr::List(list) => expressions(&list.items),
        Expr::Tuple(tuple) => expressions(&tuple.items),
        Expr::Map(map) => expressions(map.keys.iter().chain(&map.values)),
    }
}

fn arguments(all: &[CallArg<'_>]) -> Checked {
    all.iter().try_for_each(|argument| match argument {
        CallArg::Pos(value)
        | CallArg::Kwarg(_, value)
        | CallArg::PosSplat(value)
        | CallArg::KwargSplat(value) => expression(value),
    })
}
