/* flm_adapter_*, and which adapter a session has. */
#include "../model/adapter.h"

#include "../base/status.h"
#include "session.h"

flm_status flm_adapter_create(flm_model *model, const flm_adapter_change *changes, size_t n_changes,
                              flm_adapter **adapter, flm_error *error) {
    if (!model || !adapter || !changes || n_changes == 0)
        return flm_fail(error, FLM_ERR_ARGUMENT, "model or adapter is NULL, or there are no changes");
    *adapter = NULL;
    if (!model->finished)
        return flm_fail(error, FLM_ERR_STATE, "the model is not finished: call flm_model_finish first");
    flm_adapter *made;
    flm_status status = flm_adapter_build(model, changes, n_changes, &made, error);
    if (status) return status;
    flm_engine *e = model->engine;
    status = flm_gate_enter(e->gate, error);
    if (status) {
        flm_adapter_free(made);
        return status;
    }
    made->id = ++e->n_adapters;
    if (made->low > e->low) e->low = made->low; /* steps from now on have room for it */
    flm_gate_leave(e->gate);
    *adapter = made;
    return FLM_OK;
}

void flm_adapter_destroy(flm_adapter *adapter) {
    if (!adapter) return;
    flm_gate *gate = adapter->model->engine->gate;
    if (flm_gate_enter(gate, NULL)) return; /* forked in mid-step: see flm_session_destroy */
    flm_adapter_drop(adapter);
    flm_gate_leave(gate);
}

flm_status flm_session_set_adapter(flm_session *session, flm_adapter *adapter, flm_error *error) {
    if (!session) return flm_fail(error, FLM_ERR_ARGUMENT, "session is NULL");
    if (adapter && adapter->model != session->model)
        return flm_fail(error, FLM_ERR_ARGUMENT, "the adapter is of another model");
    flm_status status = flm_session_enter(session, error);
    if (status) return status;
    if (adapter != session->adapter) {
        flm_adapter *old = session->adapter;
        session->adapter = flm_adapter_hold(adapter);
        flm_adapter_drop(old);
        flm_session_forget(session, 0);
        flm_session_forget_source(session);
    }
    flm_gate_leave(session->model->engine->gate);
    return FLM_OK;
}
