//! The bindings of `wit/v1`, made by the macro. One world that exports everything is bound and never
//! instantiated: each interface is looked up by itself (`abilities.rs`), so what a component does not offer
//! costs nothing and one set of types serves all. Only this room names these types.

#![expect(clippy::error_impl_error, reason = "the contract's word for an error is `error`")]

wasmtime::component::bindgen!({
    path: "../../wit/v1",
    world: "every",
    imports: { default: async },
    exports: { default: async },
});
