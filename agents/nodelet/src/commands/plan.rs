//! `nodelet plan`.

use anyhow::Result;
use engine::exec::{Outcome, Runner, simulated_host};
use engine::host::live::LiveHost;
use engine::report::{self, Detail, JsonReport, TextReport};
use engine::resource::MaskedSecrets;

use super::say;
use crate::cli::PlanArgs;
use crate::exit::Exit;
use crate::inputs;

pub(crate) async fn plan(args: &PlanArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let inputs = inputs::read(&args.role, &host).await?;
    let selection = args.phases.selection();
    selection.validate(&inputs.plan)?;
    if args.dry_run {
        let simulated = simulated_host(&inputs.facts, &inputs.plan);
        let detail = Detail {
            unchanged: true,
            diffs: true,
            times: false,
        };
        let sink: Box<dyn engine::exec::EventSink> = if args.role.json {
            Box::new(JsonReport::new(std::io::stdout()))
        } else {
            Box::new(TextReport::new(std::io::stdout(), detail))
        };
        let mut runner = Runner::new(
            &inputs.plan,
            &simulated,
            &inputs.facts,
            &MaskedSecrets,
            sink.as_ref(),
        );
        runner.selection = selection;
        let outcome = runner.dry_run().await?;
        return Ok(if outcome == Outcome::Predicted {
            Exit::Ok
        } else {
            Exit::Failed
        });
    }
    let phases = selection.phases(&inputs.plan);
    if args.role.json {
        let value = serde_json::json!({
            "digest": inputs.plan.digest(),
            "plan": engine::plan::Plan {
                phases: phases.into_iter().cloned().collect(),
                ..inputs.plan.clone()
            },
        });
        say(&format!("{value:#}\n"));
    } else {
        say(&format!(
            "plan of {} for {} {}: {} phases, {}\n\n",
            inputs.plan.role,
            inputs.plan.node,
            inputs.plan.host,
            inputs.plan.phases.len(),
            &inputs.plan.digest()[..12]
        ));
        for phase in phases {
            say(&format!("{}\n", report::plan(phase)));
        }
    }
    Ok(Exit::Ok)
}
