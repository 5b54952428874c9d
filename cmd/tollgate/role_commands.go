package main

// The commands that run roles: each is one process that runs until it is interrupted.

type allCommand struct{}

// Run runs every role in one process.
func (allCommand) Run(a *app) error { return a.runRoles(rolesAll) }

type collectorCommand struct{}

// Run runs the collector.
func (collectorCommand) Run(a *app) error { return a.runRoles(roleCollector) }

type aggregatorCommand struct{}

// Run runs the aggregator.
func (aggregatorCommand) Run(a *app) error { return a.runRoles(roleAggregator) }

type quotaCommand struct{}

// Run runs the gate.
func (quotaCommand) Run(a *app) error { return a.runRoles(roleQuota) }

type billingCommand struct{}

// Run runs the closer.
func (billingCommand) Run(a *app) error { return a.runRoles(roleBilling) }

type anomalyCommand struct{}

// Run runs detection.
func (anomalyCommand) Run(a *app) error { return a.runRoles(roleAnomaly) }

type consoleCommand struct{}

// Run runs the console.
func (consoleCommand) Run(a *app) error { return a.runRoles(roleConsole) }
