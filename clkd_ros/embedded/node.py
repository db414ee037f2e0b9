"""rclpy's Node, as far as our nodes use it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from clkd_ros.embedded.arguments import RosArguments, expand_name, parse_arguments
from clkd_ros.embedded.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from clkd_ros.embedded.clock import Clock, ClockType, clock_message_ns
from clkd_ros.embedded.context import Context, get_default_context
from clkd_ros.embedded.endpoints import Publisher, Subscription, Timer, period_ns_from
from clkd_ros.embedded.logger import Logger, get_logger
from clkd_ros.embedded.parameters import (
    Parameter,
    ParameterNotDeclaredException,
    ParameterTable,
    SetParametersResult,
)
from clkd_ros.embedded.wire.dds import RawReader, RawWriter, dds_topic_name, dds_type_name
from clkd_ros.embedded.wire.message_types import Message, message_class
from clkd_ros.embedded.wire.qos import QoSProfile, ReliabilityPolicy, profile_from
from clkd_ros.embedded.wire.receive_buffer import describe_shortage

_Endpoint = TypeVar("_Endpoint", Publisher, Subscription, Timer)


class Node:
    """A named participant of the graph with parameters, endpoints, timers, a clock, a logger."""

    def __init__(
        self,
        node_name: str,
        *,
        context: Context | None = None,
        cli_args: Sequence[str] | None = None,
        namespace: str | None = None,
        use_global_arguments: bool = True,
        parameter_overrides: Sequence[Parameter] | None = None,
        **_ignored: Any,
    ) -> None:
        self.context = context or get_default_context()
        own, _ = parse_arguments(cli_args or ())
        everybodys = self.context.arguments if use_global_arguments else RosArguments()
        own.remaps += everybodys.remaps
        self._arguments = own
        self._name = own.node_name(node_name)
        self._namespace = own.namespace(namespace or "/", self._name)
        self._full_name = expand_name(self._name, self._name, self._namespace)
        self._logger = get_logger(self._full_name[1:].replace("/", "."))
        self._clock = Clock(clock_type=ClockType.ROS_TIME)
        self._wire = self.context.wire
        self._publishers: list[Publisher] = []
        self._subscriptions: list[Subscription] = []
        self._timers: list[Timer] = []
        self._clock_subscription: Subscription | None = None
        self.default_callback_group: CallbackGroup = MutuallyExclusiveCallbackGroup()
        self.executor: Any = None
        overrides = everybodys.parameters_of(self._full_name)
        overrides |= own.parameters_of(self._full_name)
        overrides |= {given.name: given.value for given in parameter_overrides or ()}
        self._parameters = ParameterTable(overrides)
        self.context.add_node(self)
        self._declare_sim_time()
        self._graph_changed()

    def get_name(self) -> str:
        """The name without namespace."""
        return self._name

    def get_namespace(self) -> str:
        """The namespace, ``/`` when none."""
        return self._namespace

    def get_fully_qualified_name(self) -> str:
        """Namespace and name."""
        return self._full_name

    def get_logger(self) -> Logger:
        """The node's logger."""
        return self._logger

    def get_clock(self) -> Clock:
        """The node's clock; simulated when ``use_sim_time`` is set."""
        return self._clock

    @property
    def publishers(self) -> list[Publisher]:
        """All publishers."""
        return list(self._publishers)

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions, that of ``/clock`` included."""
        return list(self._subscriptions)

    @property
    def timers(self) -> list[Timer]:
        """All timers."""
        return list(self._timers)

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """The absolute name after remapping."""
        if only_expand:
            return expand_name(topic, self._name, self._namespace)
        return self._arguments.remapped(topic, self._name, self._namespace)

    def create_publisher(
        self,
        msg_type: type[Message],
        topic: str,
        qos_profile: QoSProfile | int,
        **_ignored: Any,
    ) -> Publisher:
        """Announce a topic and return what publishes on it."""
        full, qos = self.resolve_topic_name(topic), profile_from(qos_profile)
        dds_type = dds_type_name(msg_type.__msgtype__)
        writer = RawWriter(self._wire, dds_topic_name(full), dds_type, qos)
        return self._added(self._publishers, Publisher(writer, msg_type, full, qos, self._logger))

    def create_subscription(
        self,
        msg_type: type[Message],
        topic: str,
        callback: Callable[..., Any],
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        raw: bool = False,
        **_ignored: Any,
    ) -> Subscription:
        """Call back for every message of a topic; see :class:`Subscription`."""
        full, qos = self.resolve_topic_name(topic), profile_from(qos_profile)
        dds_type = dds_type_name(msg_type.__msgtype__)
        reader = RawReader(self._wire, dds_topic_name(full), dds_type, qos)
        group = callback_group or self.default_callback_group
        made = Subscription(reader, msg_type, full, callback, qos, group, self._logger, raw)
        if shortage := describe_shortage(msg_type.__msgtype__):
            self._logger.warning(shortage, once=True)
        return self._added(self._subscriptions, made)

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable[[], Any],
        callback_group: CallbackGroup | None = None,
        clock: Clock | None = None,
        **_ignored: Any,
    ) -> Timer:
        """Call back every ``timer_period_sec`` seconds of the node's clock."""
        group = callback_group or self.default_callback_group
        period_ns = period_ns_from(timer_period_sec)
        return self._added(self._timers, Timer(callback, period_ns, clock or self._clock, group))

    def _added(self, room: list[_Endpoint], made: _Endpoint) -> _Endpoint:
        room.append(made)
        self._graph_changed()
        return made

    def _graph_changed(self) -> None:
        self.context.announce_nodes()
        if self.executor is not None:
            self.executor.wake()

    def destroy_publisher(self, publisher: Publisher) -> bool:
        """Withdraw a publisher; False when it is none of this node's."""
        return self._removed(self._publishers, publisher)

    def destroy_subscription(self, subscription: Subscription) -> bool:
        """Withdraw a subscription; False when it is none of this node's."""
        return self._removed(self._subscriptions, subscription)

    def destroy_timer(self, timer: Timer) -> bool:
        """End a timer; False when it is none of this node's."""
        return self._removed(self._timers, timer)

    def _removed(self, room: list[_Endpoint], gone: _Endpoint) -> bool:
        if gone not in room:
            return False
        room.remove(gone)
        gone.close()
        self._graph_changed()
        return True

    def destroy_node(self) -> None:
        """Take the node off the network; nodes override this to finish their files first."""
        if self.executor is not None:
            self.executor.remove_node(self)
        self.close_endpoints()

    def close_endpoints(self) -> None:
        """End every publisher, subscription and timer; twice is harmless."""
        self.context.remove_node(self)
        for room in (self._publishers, self._subscriptions, self._timers):
            for endpoint in list(room):  # type: ignore[var-annotated]
                endpoint.close()
            room.clear()

    def report_mismatches(self) -> None:
        """Log peers that cannot be connected; an executor asks once a second."""
        for publisher in self.publishers:
            publisher.report_mismatch()
        for subscription in self.subscriptions:
            subscription.report_mismatch()

    def count_publishers(self, topic: str) -> int:
        """Publishers of a topic anywhere on the network."""
        return self.context.graph.count(self.resolve_topic_name(topic), publishers=True)

    def count_subscribers(self, topic: str) -> int:
        """Subscribers of a topic anywhere on the network."""
        return self.context.graph.count(self.resolve_topic_name(topic), publishers=False)

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        """Every ROS topic on the network with its types."""
        return self.context.graph.topics()

    def get_node_names(self) -> list[str]:
        """Names of the nodes seen on the network."""
        return [name.rpartition("/")[2] for name in self.context.graph.nodes()]

    def declare_parameter(
        self,
        name: str,
        value: Any = None,
        descriptor: Any = None,
        ignore_override: bool = False,
    ) -> Parameter:
        """Declare one; see :meth:`ParameterTable.declare`."""
        return self._parameters.declare(name, value, descriptor, ignore_override)

    def declare_parameters(
        self, namespace: str, parameters: Sequence[tuple[Any, ...]], ignore_override: bool = False
    ) -> list[Parameter]:
        """Declare several ``(name, value[, descriptor])`` below a namespace."""
        prefix = f"{namespace}." if namespace else ""
        return [
            self.declare_parameter(f"{prefix}{name}", *rest, ignore_override=ignore_override)
            for name, *rest in parameters
        ]

    def has_parameter(self, name: str) -> bool:
        """True when declared."""
        return self._parameters.has(name)

    def get_parameter(self, name: str) -> Parameter:
        """A declared parameter."""
        return self._parameters.get(name)

    def get_parameters(self, names: Sequence[str]) -> list[Parameter]:
        """Several declared parameters."""
        return [self._parameters.get(name) for name in names]

    def get_parameter_or(self, name: str, alternative_value: Parameter | None = None) -> Any:
        """A declared parameter, or the alternative."""
        try:
            return self._parameters.get(name)
        except ParameterNotDeclaredException:
            return alternative_value

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Declared parameters below ``prefix.``, keyed by the rest of their name."""
        return self._parameters.by_prefix(prefix)

    def describe_parameter(self, name: str) -> Any:
        """The descriptor it was declared with."""
        return self._parameters.descriptor(name)

    def set_parameters(self, parameter_list: Sequence[Parameter]) -> list[Any]:
        """Set one after the other; each gets its own SetParametersResult."""
        return self._parameters.set_each(parameter_list)

    def set_parameters_atomically(self, parameter_list: Sequence[Parameter]) -> Any:
        """Set all or none."""
        return self._parameters.set_together(parameter_list)

    def add_on_set_parameters_callback(self, callback: Callable[..., Any]) -> None:
        """Ask ``callback`` before values change."""
        self._parameters.add_callback(callback)

    def remove_on_set_parameters_callback(self, callback: Callable[..., Any]) -> None:
        """Stop asking it."""
        self._parameters.remove_callback(callback)

    def _declare_sim_time(self) -> None:
        simulated = self.declare_parameter("use_sim_time", False).value
        self._follow_clock(simulated)
        self.add_on_set_parameters_callback(self._on_parameters)

    def _on_parameters(self, parameters: list[Parameter]) -> Any:
        for parameter in parameters:
            if parameter.name == "use_sim_time":
                if parameter.type_ != Parameter.Type.BOOL:
                    return SetParametersResult(successful=False, reason="use_sim_time is a bool")
                self._follow_clock(parameter.value)
        return SetParametersResult(successful=True)

    def _follow_clock(self, simulated: bool) -> None:
        if simulated and self._clock_subscription is None:
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            clock_type = message_class("rosgraph_msgs/msg/Clock")
            self._clock.follow(0)
            self._clock_subscription = self.create_subscription(
                clock_type,
                "/clock",
                lambda msg: self._clock.follow(clock_message_ns(msg)),
                qos,
                callback_group=MutuallyExclusiveCallbackGroup(),
            )
        elif not simulated and self._clock_subscription is not None:
            self.destroy_subscription(self._clock_subscription)
            self._clock_subscription = None
            self._clock.follow(None)
