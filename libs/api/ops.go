package api

// Operations lists every operation of the HTTP API, in the order of its document.
func Operations() []AnyOp {
	return []AnyOp{
		CreateSession, ListSessions, GetSession, SessionHistory, UpdateSession, DeleteSession,
		PauseSession, ResumeSession, InterruptSession, SendMessage, ListMessages, AnswerApproval,
		CreateProfile, ListProfiles, GetProfile, UpdateProfile, DeleteProfile, GetPool,
		PutSecret, ListSecrets, DeleteSecret, PutCredential, ListCredentials, DeleteCredential,
		Exchange, JWKS, GetMe, CreateUser, ListUsers, GetUser, UpdateUser, DeleteUser,
		CreateTenant, ListTenants, GetTenant, UpdateTenant,
		CreateKey, ListKeys, RevokeKey, ListAudit,
		CreateTask, CreateTasks, ListTasks, GetTask, WaitTask, TaskHistory, CancelTask, RetryTask, ListArtifacts,
		CreateQueue, ListQueues, GetQueue, UpdateQueue, DeleteQueue, PauseQueue, ResumeQueue, GetQueueStats,
		ListDeadLetters, Redrive,
		CreateSchedule, ListSchedules, PreviewSchedule, GetSchedule, ScheduleHistory, UpdateSchedule, DeleteSchedule, PauseSchedule, ResumeSchedule, RunSchedule, NextTimes,
		CreateWebhook, ListWebhooks, GetWebhook, UpdateWebhook, DeleteWebhook, RotateWebhook, PingWebhook, ListDeliveries, Redeliver,
		SweepTasks, SweepSessions,
		CreateTrafficPolicy, ListTrafficPolicies, GetTrafficPolicy, ApplyTrafficPolicy, DeleteTrafficPolicy, TrafficPolicyHistory,
		PlanTrafficPolicy, EffectiveTraffic, ListTrafficNodes, GetTrafficSession, CreateTrafficFault, ListTrafficFaults, DeleteTrafficFault,
	}
}
