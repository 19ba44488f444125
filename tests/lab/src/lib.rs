//! Real servers under load: the SQL client, server control, workload and checks of demo, soak and tests.
