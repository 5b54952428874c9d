// Package auditlog owns the table audit_log: who did what, when and why, where somebody overrides what the
// program would do by itself. It owns no right: whoever acts is let or refused before. Tools and the roles
// that carry out what people ask for write it.
package auditlog
