//! The agents' domains, and what they report over xenstore.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::control::{AGENT, AgentStatus, ROOT};
use tests_qemu::exec::Dom0;
use toolstack::card::CARD_LABEL;

use crate::network::BRIDGE;
use crate::nic::{DEVICE, DRIVER_DOMAIN, Nic};
use crate::qemu::Hypervisor;

/// The name of an agent's domain: the save helper finds it by this.
pub const AGENT_NAME: &str = "tsmc-agent";

/// Memory of an agent, MiB.
pub const MEMORY_MIB: u32 = 32;

/// How long an agent may take to get ready before that is a failure.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How an agent's domain is made, or the self-test's.
#[derive(Clone, Debug)]
pub struct AgentConfiguration<'a> {
    /// The image on this machine.
    pub image: &'a Path,
    /// Its host's hypervisor.
    pub hypervisor: Hypervisor,
    /// Its network interface.
    pub nic: Nic,
    /// Its command line.
    pub arguments: &'a str,
    /// The module with its identity.
    pub module: Option<&'a str>,
}

/// Creates a domain from `configuration`.
pub fn create(dom0: &Dom0, configuration: &AgentConfiguration<'_>) -> Result<()> {
    let AgentConfiguration { image, hypervisor, nic, arguments, module } = configuration;
    let kernel = put_image(dom0, image)?;
    let ramdisk = match module {
        Some(module) => {
            dom0.put(module.as_bytes(), "/root/tsmc-module", 0o600)?;
            "ramdisk=\"/root/tsmc-module\"\n"
        }
        None => "",
    };
    if *nic == Nic::Pci {
        make_assignable(dom0, *hypervisor)?;
    }
    create_as(dom0, &configuration_text(&kernel, *hypervisor, *nic, arguments, ramdisk))
}

/// Creates an agent's domain from the text of an `xl.cfg`. Its console begins anew: xenconsoled goes on where an earlier domain of
/// this name has ended, and what that one said would be taken for this one's words.
pub fn create_as(dom0: &Dom0, text: &str) -> Result<()> {
    dom0.put(text.as_bytes(), "/root/tsmc-agent.cfg", 0o644)?;
    let log = console_log(AGENT_NAME);
    run(dom0, &["sh", "-c", &format!("cat {log} >>{log}.before 2>/dev/null; : >{log}")])?;
    run(dom0, &["xl", "create", "/root/tsmc-agent.cfg"])
}

/// Labels the second network card, and gives it to dom0's PCI backend; Xen forgets the label whenever it loads a policy.
pub fn make_assignable(dom0: &Dom0, hypervisor: Hypervisor) -> Result<()> {
    let device = format!("0000:{DEVICE}");
    if hypervisor == Hypervisor::Full {
        run(dom0, &["flask-label-pci", &device, CARD_LABEL])?;
    }
    let add = || run(dom0, &["xl", "pci-assignable-add", DEVICE]);
    add().or_else(|error| {
        // The end of its last domain may have left it masked (docs/platform.md).
        println!("{error:#}; the card is reset");
        run(dom0, &["sh", "-c", &format!("echo 1 >/sys/bus/pci/devices/{device}/reset")])?;
        add()
    })
}

/// Runs a command that must succeed.
fn run(dom0: &Dom0, command: &[&str]) -> Result<()> {
    let output = dom0.run(command)?;
    if !output.success() {
        bail!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The words for a static address.
pub fn static_address(address: Ipv4Addr) -> String {
    format!("ip={address}/24 gw={BRIDGE}")
}

/// Copies an image into dom0; where it is there.
pub fn put_image(dom0: &Dom0, image: &Path) -> Result<String> {
    let name = image.file_name().context("the image has no name")?;
    let path = format!("/root/{}", name.to_string_lossy());
    dom0.put_file(image, &path).with_context(|| format!("cannot copy {}", image.display()))?;
    Ok(path)
}

/// The `xl.cfg` of an agent's domain, or the self-test's; `kernel` is its image in dom0, `more` holds further lines.
pub fn configuration_text(kernel: &str, hypervisor: Hypervisor, nic: Nic, arguments: &str, more: &str) -> String {
    let network = nic.configuration();
    let labels = match hypervisor {
        Hypervisor::Full => {
            "init_seclabel=\"system_u:system_r:tsmc_agent_t_building\"\nseclabel=\"system_u:system_r:tsmc_agent_t\"\n"
        }
        _ => "",
    };
    format!(
        "name=\"{AGENT_NAME}\"\ntype=\"pv\"\nkernel=\"{kernel}\"\nmemory={MEMORY_MIB}\nvcpus=1\n\
         tsc_mode=\"native\"\ncpu_weight=2048\nextra=\"{arguments}\"\n\
         {labels}{network}on_crash=\"preserve\"\n{more}"
    )
}

/// The agent of one host.
#[derive(Clone)]
pub struct Agent {
    /// Its host's dom0.
    pub dom0: Dom0,
    /// Its domain.
    pub domain: u32,
    /// What it said of itself.
    pub status: AgentStatus,
    /// How long after the return of `xl create` it said so.
    pub ready_after: Duration,
}

/// Both agents of a migration, source first.
pub type Agents = (Agent, Agent);

impl Agent {
    /// Starts an agent as `configuration` says and waits until it can serve.
    pub fn start(dom0: &Dom0, configuration: &AgentConfiguration<'_>) -> Result<Self> {
        create(dom0, configuration)?;
        Self::ready(dom0)
    }

    /// The agent that was just started: waits until it can serve.
    pub fn ready(dom0: &Dom0) -> Result<Self> {
        let created = Instant::now();
        let domain = domain_id(dom0, AGENT_NAME)?.context("the agent's domain is gone")?;
        let path = format!("/local/domain/{domain}/{ROOT}/{AGENT}");
        loop {
            let text = dom0.run(&["xenstore-read", &path])?.text();
            if let Ok(status) = text.parse() {
                return Ok(Self { dom0: dom0.clone(), domain, status, ready_after: created.elapsed() });
            }
            if created.elapsed() > READY_LIMIT {
                bail!("the agent does not get ready; its console:\n{}", console(dom0, AGENT_NAME)?);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The number of the domain with this name, if there is one.
pub fn domain_id(dom0: &Dom0, name: &str) -> Result<Option<u32>> {
    let output = dom0.run(&["xl", "domid", name])?;
    if !output.success() {
        return Ok(None);
    }
    Ok(Some(output.text().parse().context("xl domid prints a number")?))
}

/// Whether a line of `xl list` is about a domain that serves others: dom0, the agent, its network's driver domain.
pub fn is_service(line: &str) -> bool {
    ["Domain-0 ", AGENT_NAME, DRIVER_DOMAIN].iter().any(|name| line.starts_with(name))
}

/// The end of a domain's console, as xenconsoled wrote it down.
pub fn console(dom0: &Dom0, name: &str) -> Result<String> {
    Ok(dom0.run(&["tail", "-n", "30", &console_log(name)])?.text())
}

/// Where xenconsoled writes a domain's console down.
pub fn console_log(name: &str) -> String {
    format!("/var/log/xen/console/guest-{name}.log")
}
