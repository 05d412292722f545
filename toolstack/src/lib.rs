//! What runs in dom0: the drop-in for libxl's save helper and the operator's command.
//!
//! libxl starts a helper for the memory part of every save, restore and migration. Ours asks the local migration agent,
//! a stub domain, to move the memory instead, and puts into libxl's stream only where that agent is. No guest page
//! passes through here. Whatever is not a live migration that the agents can serve goes to the stock helper untouched.
//!
//! | module | what it is |
//! |---|---|
//! | [`arguments`] | what libxl passes on the command line |
//! | [`callbacks`] | the messages a helper sends to libxl |
//! | [`stream`] | the one record we put into the migration stream |
//! | [`peek`] | looking at a stream without taking anything from it |
//! | [`xenstore`] | a client of xenstored |
//! | [`agents`] | a client of the agent: finds it, sends it requests, follows a session |
//! | [`events`] | waiting for libxl, the agent, the stream and signals at once |
//! | [`helper`] | one call of the save helper, for the agents or for Xen's own |
//! | [`save`], [`restore`] | the two ends of a migration |
//! | [`migrate`] | `tsmc migrate`: checks beforehand, progress, cancelling, a clear result |
//! | [`follow`] | the process that sees a migration through after its helper has ended |
//! | [`broker`] | makes hypercalls on a guest for an agent that has no right of its own, and grants it the guest's pages |
//! | [`recover`] | recovery of guests whose agent, helper or toolstack died |
//! | [`kept`] | records in xenstore for that recovery |
//! | [`process`], [`monitor`] | processes of dom0; the one that `xl` leaves behind with a guest |
//! | [`print`] | what is said to people |
//! | [`name`] | what the agent's domain is called |
//! | [`refusal`] | why a migration does not happen |
//! | [`stock`] | handing over to Xen's own helper |
//! | [`status`] | the output of `tsmc status` |
//! | [`card`] | the agent's own network card, and taking it from dom0 |
//! | [`lockdown`] | taking from dom0 what would undo the policy |
//! | [`identity`] | keys of agents, and the module that an agent is started with |
//! | [`watch`] | the watchdog that keeps an agent running |

// Whoever reads what a program prints may be gone: these end it then.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod agents;
pub mod arguments;
pub mod broker;
pub mod callbacks;
pub mod card;
pub mod events;
pub mod follow;
pub mod helper;
pub mod identity;
pub mod kept;
pub mod lockdown;
pub mod migrate;
pub mod monitor;
pub mod name;
pub mod peek;
pub mod print;
pub mod process;
pub mod recover;
pub mod refusal;
pub mod restore;
pub mod save;
pub mod status;
pub mod stock;
pub mod stream;
pub mod watch;
pub mod xenstore;

#[cfg(test)]
mod testing;
